"""Who gives way."""

import pytest

from tests.serving.scheduling.engine import Asked, Engine

# Nobody is expected to run out of room before its end, so only what is lacking now has to be made free.
AMPLE = {"pool_tokens": 4000, "max_length": 1000, "check": False}


def running(prompts: list[list[int]], *, max_tokens: int = 20, **settings) -> tuple[Engine, list[Asked]]:
    engine = Engine(**AMPLE | settings)
    asked = [engine.ask(prompt, max_tokens) for prompt in prompts]
    engine.step()
    return engine, asked


def victim(engine: Engine, *, lacking: int) -> int:
    """Number of the request that would give way, in the order in which they came."""
    return engine.scheduler._preemption._victim(lacking).order


@pytest.mark.parametrize(("lacking", "expected"), [(1, 3), (20, 3), (25, 1), (45, 2), (1000, 2)])
def test_the_cheapest_that_is_enough_gives_way_or_the_one_that_gives_most(lacking: int, expected: int):
    engine, _ = running([[1] * 90, [2] * 40, [3] * 60, [4] * 20])
    assert victim(engine, lacking=lacking) == expected


def test_of_equals_the_latest_gives_way():
    engine, _ = running([[token] * 30 for token in range(4)])
    assert victim(engine, lacking=10) == 3


@pytest.mark.parametrize("lacking", [1, 25, 1000])
def test_the_latest_gives_way_whatever_it_gives_if_that_is_asked_for(lacking: int):
    engine, _ = running([[1] * 90, [2] * 40, [3] * 20, [4] * 60], preemption="latest")
    assert victim(engine, lacking=lacking) == 3


def test_the_latest_of_the_least_urgent_gives_way():
    engine, asked = running([[1] * 9] * 4, preemption="latest", schedule_policy="priority")
    for request, priority in zip(asked, (5, 7, 7, 1), strict=True):
        engine.scheduler._running.rows.priority[engine.scheduler._requests[request.index].row] = priority
    assert victim(engine, lacking=1) == 2


def test_what_others_share_is_neither_given_free_nor_computed_again():
    trunk = list(range(60)) * 4
    engine, _ = running([[1] * 300, [*trunk, 1], [*trunk, 2], [3] * 50])
    # Both that share the trunk have but two slots of their own.
    assert victim(engine, lacking=1) == 2
    assert victim(engine, lacking=10) == 3


def test_who_has_been_preempted_before_gives_way_first():
    engine, asked = running([[1] * 90, [2] * 40, [3] * 60, [4] * 20])
    preemption = engine.scheduler._preemption
    preemption._victim = lambda lacking: engine.scheduler._requests[asked[2].index]
    needed = iter([4000, 0, 0])
    preemption._slots_needed = lambda tokens: next(needed)
    engine.step()
    del preemption._victim, preemption._slots_needed
    while not engine.scheduler._requests[asked[2].index].row >= 0:
        engine.step()
    assert victim(engine, lacking=1) == 2


def test_the_oldest_never_gives_way():
    engine, asked = running([[1] * 5, [2] * 300])
    rows, request = engine.scheduler._running.rows, engine.scheduler._requests[asked[0].index]
    rows.num_preemptions[request.row] = 1
    assert victim(engine, lacking=1) == 1


@pytest.mark.parametrize(("schedule_policy", "expected"), [("fcfs", 3), ("priority", 1)])
def test_where_requests_go_by_priority_the_least_urgent_gives_way(schedule_policy: str, expected: int):
    engine, asked = running([[1] * 90, [2] * 40, [3] * 60, [4] * 20], schedule_policy=schedule_policy)
    rows = engine.scheduler._running.rows
    for request, priority in zip(asked, (5, 7, 7, 1), strict=True):
        rows.priority[engine.scheduler._requests[request.index].row] = priority
    assert victim(engine, lacking=1) == expected
    rows.num_preemptions[:] = rows.priority == 1
    rows.priority[rows.priority == 7] = 1
    # Now the first is the least urgent; the second, the oldest of the most urgent, would be the last to give way.
    if schedule_policy == "priority":
        assert victim(engine, lacking=1) == 0


def test_a_victim_gives_what_the_predicted_peak_lacks():
    # Each grows to 350 slots: two of three fit, so one has to give at least its 200, and another 50 would follow.
    engine, asked = running(
        [[1] * 200, [2] * 200, [3] * 30], max_tokens=151, pool_tokens=700, admission="watermark", watermark=1.0
    )
    assert victim(engine, lacking=1) == 1
    engine.run()
    for request in asked:
        engine.check_output(request)
    assert [engine.field(request, "preemptions") for request in asked] == [0, 1, 0]
