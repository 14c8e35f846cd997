"""Prompts run beside decodes in small steps where that makes nobody end later."""

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.spreading import ends_in_time
from tests.serving.scheduling.engine import Engine

SMALL, LARGE = 32, 256


def engine_with(*, small: int) -> Engine:
    return Engine(
        batch_max_tokens=LARGE, small_tokens=small, prompts_first=True, running_max_req_size=16,
        disable_dynamic_prompt_cache=True,
    )  # fmt: skip


def shapes(outputs: list[int], *, small: int, stops: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Tokens of each step and how many of them are decodes, of requests with prompts of 100."""
    engine = engine_with(small=small)
    asked = [engine.ask([token] * 100, output, stops=stops) for token, output in enumerate(outputs)]
    engine.run()
    for request in asked:
        engine.check_output(request)
    return [(len(plan.tokens), int((plan.counts == 1).sum())) for plan in engine.plans]


def test_prompts_of_shorter_answers_are_spread_over_the_steps_of_longer_ones():
    outputs = list(range(160, 0, -10))
    spread, first = shapes(outputs, small=SMALL), shapes(outputs, small=0)
    assert all(tokens <= SMALL for tokens, decodes in spread if decodes)
    assert len([1 for tokens, decodes in spread if tokens > decodes > 0]) > 16 * 100 / SMALL / 2
    assert len(spread) <= len(first)
    assert not any(tokens > decodes > 0 for tokens, decodes in first[:6]), "prompts alone fill these"


@pytest.mark.parametrize("outputs", [[40] * 16, list(range(10, 170, 10))], ids=["equal", "longest last"])
def test_prompts_go_first_where_somebody_would_end_later(outputs: list[int]):
    assert shapes(outputs, small=SMALL) == shapes(outputs, small=0)


def test_prompts_go_first_where_answers_may_end_at_any_time():
    outputs = list(range(160, 0, -10))
    assert shapes(outputs, small=SMALL, stops=(63,)) == shapes(outputs, small=0, stops=(63,))


def test_steps_are_as_large_as_allowed_while_nobody_decodes():
    assert shapes([100], small=SMALL)[0] == (100, 0)


def limits(small: int = 512) -> StepLimits:
    config = EngineConfig(prompts_first=True, batch_max_tokens=8192, running_max_req_size=256)
    return StepLimits.of(config, 4096, small_tokens=small)


@pytest.mark.parametrize("decodes", [1, 40, 200])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_foreseen_is_what_steps_show(seed: int, decodes: int):
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(50, 600, 50), rng.integers(1, 700, 50)
    if seed % 2:
        outputs = np.sort(outputs)[::-1]
    longest = int(rng.choice([10, 500, 900]))
    small = max(longest, last_end(prompts, outputs, decodes=decodes, tokens=512))
    large = max(longest, int(outputs.max())) + prompts.sum() / 8192
    foreseen = ends_in_time(prompts, outputs, decodes=decodes, longest=longest, limits=limits())
    assert foreseen == (small <= 1.01 * large) or abs(small / large - 1.01) < 0.01


def test_small_steps_need_room_for_prompts_beside_decodes():
    one = np.array([100])
    assert ends_in_time(one, one, decodes=300, longest=900, limits=limits())
    assert not ends_in_time(one, one, decodes=400, longest=900, limits=limits())
    assert not ends_in_time(one, one, decodes=10, longest=900, limits=limits(small=0))


def last_end(prompts: np.ndarray, outputs: np.ndarray, *, decodes: int, tokens: int) -> int:
    """The step in which the last one ends, if nobody who decodes ends before all have begun."""
    left, begun, ends = prompts.tolist(), 0, []
    for step in range(1, 10_000):
        room = tokens - decodes - begun
        while begun < len(left) and room:
            took = min(room, left[begun])
            left[begun], room = left[begun] - took, room - took
            if not left[begun]:
                ends.append(step + int(outputs[begun]))
                begun += 1
        if begun == len(left):
            break
    return max(ends)
