import random

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.holdings import Holdings, Shares, quickest_prefill, slowest_prefill
from lightllm.serving.scheduling.plan import StepLimits
from tests.serving.scheduling.engine import Engine

NONE = np.empty(0, dtype=np.int64)


def limits(tokens: int, chunk: int) -> StepLimits:
    return StepLimits.of(EngineConfig(batch_max_tokens=tokens, chunked_prefill_size=chunk), 100)


def predicted_peak(held: list[int], pending: list[int], growth: list[int], limits: StepLimits) -> int:
    """Of requests that share nothing."""
    known = np.array(pending)
    holdings = Holdings(
        rows=NONE, length=NONE, held=np.array(held), pending=known, quickest=quickest_prefill(known, limits),
        slowest=slowest_prefill(known, known, limits), pace=np.ones_like(known), shares=(Shares(NONE, NONE, NONE),),
    )  # fmt: skip
    return int(holdings.peaks(np.array([growth]))[0])


def simulate(held: list[int], pending: list[int], growth: list[int], limits: StepLimits) -> tuple[int, list[int]]:
    """Runs the requests step by step, oldest first, each slot given back a step after a request's last one.

    Returns the most slots in use, and the steps in which each ran its pending tokens.
    """
    held, pending, growth = list(held), list(pending), list(growth)
    steps_of_prefill, has_ended, is_over, peak = [0] * len(held), [False] * len(held), [False] * len(held), 0
    while not all(is_over):
        budget = limits.tokens
        is_over = has_ended.copy()
        for i, left in enumerate(growth):
            if not pending[i] and left:
                held[i], growth[i], budget = held[i] + 1, left - 1, budget - 1
            elif not pending[i]:
                has_ended[i] = True
        for i, left in enumerate(pending):
            if left:
                run = min(left, limits.chunk, budget)
                held[i], pending[i], budget = held[i] + run, left - run, budget - run
                steps_of_prefill[i] += 1
        peak = max(peak, sum(h for h, over in zip(held, is_over, strict=True) if not over))
    return peak, steps_of_prefill


@pytest.mark.parametrize("seed", range(10))
def test_predicted_peak_bounds_a_step_by_step_simulation(seed: int):
    draw = random.Random(seed)
    for _ in range(60):
        number, tokens = draw.randint(1, 8), draw.choice([8, 12, 40])
        bounds = limits(tokens, draw.choice([1, 4, 8, 40]))
        held, pending = ([draw.randint(0, 20) for _ in range(number)] for _ in range(2))
        pending = [draw.choice([0, tokens]) for tokens in pending]
        growth = [draw.randint(0, 15) for _ in range(number)]
        peak, steps = simulate(held, pending, growth, bounds)
        needed = np.array(pending)
        assert (quickest_prefill(needed, bounds) <= steps).all()
        assert (steps <= slowest_prefill(needed, needed, bounds)).all()
        assert predicted_peak(held, pending, growth, bounds) >= peak


def test_predicted_peak_is_exact_for_requests_that_decode():
    draw = random.Random(0)
    for _ in range(300):
        held = [draw.randint(1, 40) for _ in range(draw.randint(1, 8))]
        growth = draw.sample(range(30), len(held))  # all different: of two that end together one is counted too much
        zeros, bounds = [0] * len(held), limits(100, 100)
        assert predicted_peak(held, zeros, growth, bounds) == simulate(held, zeros, growth, bounds)[0]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_one_request_alone_needs_a_slot_for_all_but_its_last_token(chunk: int):
    for prompt, max_tokens in [(1, 1), (10, 1), (10, 7), (100, 3)]:
        needed = predicted_peak([0], [prompt], [max_tokens - 1], limits(100, chunk))
        assert needed == prompt + max_tokens - 1


@pytest.mark.parametrize("seed", range(5))
def test_what_is_shared_is_held_as_long_as_its_last_holder_lives(seed: int):
    draw = random.Random(seed)
    for _ in range(100):
        number, samples = draw.randint(1, 8), draw.randint(1, 4)
        held = [draw.randint(0, 20) for _ in range(number)]
        groups = [draw.sample(range(number), draw.randint(1, number)) for _ in range(draw.randint(0, 4))]
        tokens = [draw.randint(1, 40) for _ in groups]
        starts = np.cumsum([0, *[len(group) for group in groups]])[:-1]
        shares = Shares(np.array(tokens, dtype=np.int64), starts, np.array(sum(groups, []), dtype=np.int64))
        growth = np.array([[draw.randint(0, 15) for _ in range(number)] for _ in range(samples)])
        zeros = np.zeros(number, dtype=np.int64)
        holdings = Holdings(NONE, NONE, np.array(held), zeros, zeros, zeros, zeros + 1, (shares,))
        for lives, predicted in zip(growth.tolist(), holdings.peaks(growth).tolist(), strict=True):
            # A request is there one step longer than it grows; all but the last to end may grow in that step too.
            in_use = [
                sum(h + step for h, life in zip(held, lives, strict=True) if life + 1 >= step)
                + sum(t for t, group in zip(tokens, groups, strict=True) if max(lives[i] for i in group) + 1 >= step)
                for step in range(18)
            ]
            assert predicted == max(0, max(in_use) - 1)


def run_together(prompts: list[list[int]], *, chunk: int, own: int, **settings) -> Engine:
    """Asks for all at once where the pool has just the room for every distinct prefix and `own` slots for each."""
    distinct = len({tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt))})
    engine = Engine(
        pool_tokens=distinct + own * len(prompts), max_length=400, chunked_prefill_size=chunk, batch_max_tokens=1000,
        **settings,
    )  # fmt: skip
    asked = [engine.ask(prompt, 5, stops=(64,)) for prompt in prompts]
    engine.step()
    running = len(engine.scheduler._running)
    engine.run()
    for request in asked:
        engine.check_output(request)
    assert engine.metrics.total("preemptions") == 0
    assert running == len(prompts), "all were let in at once"
    return engine


@pytest.mark.parametrize("admission", ["past_future", "conservative"])
@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_samples_of_a_prompt_that_is_still_to_run_count_it_once(chunk: int, admission: str):
    # Each needs the last token of the prompt and 4 of the 5 that it generates, and one while another ends. In every
    # step of the prompt it might already generate.
    engine = run_together([list(range(300))] * 8, chunk=chunk, own=6 + 300 // chunk, admission=admission)
    assert engine.device.num_tokens == 299 + 8 * (1 + 4)


@pytest.mark.parametrize("seed", range(8))
def test_prompts_that_part_later_on_count_their_common_beginning_once(seed: int):
    draw = random.Random(seed)
    beginning = [draw.randrange(60) for _ in range(200)]
    prompts = [[*beginning, *[100 + i] * draw.randint(1, 30)] for i in range(6)]
    run_together(prompts, chunk=16, own=6 + 230 // 16, admission="conservative")


def test_a_prefix_in_the_tree_counts_once_however_often_it_is_shared():
    engine = Engine(max_length=400)
    trunk = list(range(50))
    prompts = [trunk + [60 + i % 2] * 20 + [i] * 5 for i in range(6)]
    for prompt in prompts:
        engine.ask(prompt, 10, stops=(64,))
    engine.step()
    running = engine.scheduler._running
    holdings = Holdings.of(running, engine.scheduler._limits, candidate=0, next_tokens=0)
    (in_tree,) = holdings.shares
    assert sorted(in_tree.tokens.tolist()) == [20, 20, 50]
    assert holdings.held.tolist() == [len(prompt) - 70 + 1 for prompt in prompts]
    assert int(in_tree.tokens.sum() + holdings.held.sum()) == engine.scheduler._pool.num_used
