import random

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.request import FinishReason
from lightllm.serving.scheduling.admission import longest_admissible, predicted_peak, prefill_steps, why_not_alone
from lightllm.serving.scheduling.plan import StepLimits
from tests.serving.scheduling.engine import Engine


def limits(tokens: int, chunk: int) -> StepLimits:
    return StepLimits.of(EngineConfig(batch_max_tokens=tokens, chunked_prefill_size=chunk), 100)


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
        arrays = [np.array(values) for values in (held, pending, growth)]
        quickest, slowest = prefill_steps(arrays[1], bounds)
        assert (quickest <= steps).all()
        assert (steps <= slowest).all()
        assert predicted_peak(*arrays, quickest, slowest) >= peak


def test_predicted_peak_is_exact_for_requests_that_decode():
    draw = random.Random(0)
    for _ in range(300):
        held = [draw.randint(1, 40) for _ in range(draw.randint(1, 8))]
        growth = draw.sample(range(30), len(held))  # all different: of two that end together one is counted too much
        zeros = np.zeros(len(held), dtype=np.int64)
        predicted = predicted_peak(np.array(held), zeros, np.array(growth), zeros, zeros)
        assert predicted == simulate(held, zeros.tolist(), growth, limits(100, 100))[0]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_one_request_alone_needs_a_slot_for_all_but_its_last_token(chunk: int):
    for prompt, max_tokens in [(1, 1), (10, 1), (10, 7), (100, 3)]:
        pending = np.array([prompt])
        steps = prefill_steps(pending, limits(100, chunk))
        assert predicted_peak(np.array([0]), pending, np.array([max_tokens - 1]), *steps) == prompt + max_tokens - 1


def test_validation_lets_in_exactly_what_fits():
    for prompt in (1, 7, 30):
        for pool_tokens, max_length in [(30, 40), (30, 31), (30, 30), (30, 20), (1, 2)]:
            most = longest_admissible(prompt, pool_tokens=pool_tokens, max_length=max_length)
            if most >= 1:
                assert why_not_alone(prompt, most, pool_tokens=pool_tokens, max_length=max_length) is None
            assert why_not_alone(prompt, max(1, most + 1), pool_tokens=pool_tokens, max_length=max_length)


def test_a_refusal_names_the_numbers_and_the_knob():
    reason = why_not_alone(40, 12, pool_tokens=50, max_length=100)
    assert reason is not None
    for word in ("40", "max_tokens=12", "51", "50", "--max_total_token_num"):
        assert word in reason
    reason = why_not_alone(60, 41, pool_tokens=200, max_length=100)
    assert reason is not None
    for word in ("60", "max_tokens=41", "101", "100", "--max_req_total_len"):
        assert word in reason
    assert why_not_alone(0, 1, pool_tokens=10, max_length=10) is not None


@pytest.mark.parametrize("seed", range(12))
def test_what_validation_lets_in_runs_on_an_empty_server(seed: int):
    draw = random.Random(seed)
    for _ in range(8):
        pool_tokens, max_length = draw.randint(1, 60), draw.randint(2, 60)
        engine = Engine(
            pool_tokens=pool_tokens, max_length=max_length, records=8,
            admission=draw.choice(["conservative", "watermark"]), watermark=draw.choice([0.01, 0.5, 1.0]),
            batch_max_tokens=draw.choice([1, 7, 100]), chunked_prefill_size=draw.choice([1, 5, None]),
            disable_dynamic_prompt_cache=draw.random() < 0.5, router_max_new_token_len=draw.choice([1, 2048]),
        )  # fmt: skip
        prompt, max_tokens = draw.randint(1, max_length), draw.randint(1, 60)
        asked = engine.ask([draw.randrange(3) for _ in range(prompt)], max_tokens, given=draw.random() < 0.5)
        engine.run()
        if why_not_alone(prompt, max_tokens, pool_tokens=pool_tokens, max_length=max_length):
            assert engine.finish(asked) == FinishReason.ERROR
        else:
            engine.check_output(asked)


def num_started_together(prompts: list[list[int]], max_tokens: int, *, pool_tokens: int, **settings) -> int:
    """How many of the requests run from the first step on. In the end all are served."""
    engine = Engine(pool_tokens=pool_tokens, max_length=200, **settings)
    asked = [engine.ask(prompt, max_tokens) for prompt in prompts]
    engine.run()
    for request in asked:
        engine.check_output(request)
    return len(engine.plans[0].begins)


def test_a_shared_prompt_counts_once():
    prompts = [[1] * 100 + [token] for token in range(8)]
    # Each needs 10 slots of its own, and while the first to end still has its own the others may grow.
    pool_tokens = 100 + 8 * 10 + 7
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens) == 8
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens - 1) == 7
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens, disable_dynamic_prompt_cache=True) == 1


def test_conservative_admits_what_fits_at_the_peak_and_watermark_what_fits_now():
    prompts = [[token] * 20 for token in range(4)]
    assert num_started_together(prompts, 30, pool_tokens=2 * 49 + 1) == 2
    assert num_started_together(prompts, 30, pool_tokens=2 * 49) == 1
    assert num_started_together(prompts, 30, pool_tokens=100, admission="watermark", watermark=0.8) == 4
    assert num_started_together(prompts, 30, pool_tokens=100, admission="watermark", watermark=0.6) == 3


def test_a_request_without_a_maximum_counts_with_an_estimate():
    engine = Engine(pool_tokens=200, max_length=150, router_max_new_token_len=20)
    asked = [engine.ask([token] * 10, 140, given=False) for token in range(5)]
    engine.step()
    engine.step()
    assert engine.metrics.total("batch_current_size") == 5
    engine.run()
    for request in asked:
        engine.check_output(request)
