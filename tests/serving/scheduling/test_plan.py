import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.step import ROW, StepPlan, StepResult, pack
from lightllm.serving.scheduling.plan import StepLimits, plan_bytes, result_bytes
from tests.serving.scheduling.engine import Engine


def largest_plan(limits: StepLimits) -> StepPlan:
    def of(count: int) -> np.ndarray:
        return np.zeros(count, dtype=np.int32)

    return StepPlan(
        step=1,
        rows=of(limits.rows),
        starts=of(limits.rows),
        counts=of(limits.rows),
        samples=np.zeros(limits.rows, dtype=np.bool_),
        tokens=of(limits.tokens),
        update_rows=of(limits.rows),
        update_starts=of(limits.rows),
        update_counts=of(limits.rows),
        update_slots=of(limits.update_slots),
        begins=np.zeros(limits.rows, dtype=ROW),
        stop_tokens=of(limits.stop_tokens),
        words=of(limits.words),
    )


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("tokens", [1, 513, 8192])
@pytest.mark.parametrize("max_length", [2, 1000, 131_072])
def test_the_largest_plan_and_result_fit_their_places(rows: int, tokens: int, max_length: int):
    config = EngineConfig(running_max_req_size=rows, batch_max_tokens=tokens)
    limits = StepLimits.of(config, max_length)
    assert pack(largest_plan(limits), np.zeros(plan_bytes(config, max_length), dtype=np.uint8))
    of_rows, top = np.zeros(limits.rows, dtype=np.int32), np.zeros((limits.rows, 20), dtype=np.int32)
    result = StepResult(1, of_rows, of_rows.view(np.float32), top, top.view(np.float32), 0.0, True)
    assert pack(result, np.zeros(result_bytes(config, max_length), dtype=np.uint8))


def test_prefixes_that_one_plan_cannot_tell_of_wait_for_the_next():
    engine = Engine(max_length=1024, batch_max_tokens=20)
    first = engine.ask([1] * 1000, 2)
    engine.run()
    asked = [engine.ask([1] * 1000, 2) for _ in range(6)]
    engine.run()
    for request in [first, *asked]:
        engine.check_output(request)
    limit = StepLimits.of(engine.config, 1024).update_slots
    sizes = [len(plan.update_slots) for plan in engine.plans]
    assert 1000 <= max(sizes) <= limit < 2000
    assert sum(size >= 999 for size in sizes) == 6, "each in a plan of its own"


def test_stop_tokens_that_one_plan_cannot_tell_of_wait_for_the_next():
    engine = Engine()
    stops = tuple(range(1000, 2024))
    asked = [engine.ask([token], 5, stops=stops, min_tokens=2) for token in range(6)]
    engine.run()
    for request in asked:
        engine.check_output(request)
    assert [len(plan.stop_tokens) for plan in engine.plans[:2]] == [4096, 2048]


def test_more_requests_than_tokens_in_a_step_never_run():
    engine = Engine(batch_max_tokens=4, running_max_req_size=100)
    asked = [engine.ask([token] * 5, 10) for token in range(10)]
    engine.run()
    for request in asked:
        engine.check_output(request)
    assert max(len(plan.rows) for plan in engine.plans) <= 4
