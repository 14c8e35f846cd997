import sys

import pytest

from tests.serving.scheduling.engine import Engine


def calls_per_step(batch: int, *, steps: int = 40, **settings) -> float:
    """Python and C function calls of scheduling one step while `batch` requests decode, none begins or ends."""
    engine = Engine(pool_tokens=300_000, check=False, running_max_req_size=256, **settings)
    for number in range(batch):
        # Different lengths, so that not all need a new run of slots in the same step.
        engine.ask([number % 64] * (20 + number % 64), 1000, stops=(64,), num_logprobs=2 if number % 2 else -1)
    for _ in range(20):
        engine.step()
    count = 0

    def note(_frame, event: str, _argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for _ in range(steps):
        sys.setprofile(note)
        plan = engine.scheduler.plan()
        sys.setprofile(None)
        assert plan is not None
        assert len(plan.rows) == batch
        engine.launch(plan)
        result = engine.results.popleft()
        sys.setprofile(note)
        engine.scheduler.digest(result)
        progress = engine.scheduler.drain()
        sys.setprofile(None)
        assert progress is not None
        assert len(progress.progressed) == 8 * batch
    return count / steps


@pytest.mark.parametrize(
    "settings", [{}, {"admission": "conservative"}, {"admission": "watermark"}, {"disable_dynamic_prompt_cache": True}]
)
def test_function_calls_of_a_decode_step_do_not_grow_with_the_batch(settings: dict):
    assert calls_per_step(256, **settings) <= 1.2 * calls_per_step(8, **settings)
