import random

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.holdings import Holdings, Shares, quickest_prefill, slowest_prefill
from lightllm.serving.scheduling.plan import StepLimits

NONE = np.empty(0, dtype=np.int64)


def limits(tokens: int, chunk: int) -> StepLimits:
    return StepLimits.of(EngineConfig(batch_max_tokens=tokens, chunked_prefill_size=chunk), 100)


def predicted_peak(held: list[int], pending: list[int], growth: list[int], limits: StepLimits) -> int:
    """Of requests that share nothing."""
    known = np.array(pending)
    holdings = Holdings(
        rows=NONE, length=NONE, held=np.array(held), pending=known, quickest=quickest_prefill(known, limits),
        slowest=slowest_prefill(known, known, limits), shares=(Shares(NONE, NONE, NONE),),
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
