"""More than the server can do: who is refused, whose time is up, and that everyone else gets what they get alone."""

import math

import pytest

from lightllm.base.request import FinishReason, Refusal
from tests.serving.scheduling.engine import Asked, Engine

ONE = {"running_max_req_size": 1}


def refusal(engine: Engine, asked: Asked) -> Refusal:
    assert engine.finish(asked) == FinishReason.REFUSED
    return Refusal(engine.field(asked, "refusal"))


def finish_and_check(engine: Engine, asked: list[Asked]) -> None:
    engine.run()
    for one in asked:
        engine.check_output(one)


def check_released(engine: Engine) -> None:
    for one in engine.asked.values():
        if not one.is_released:
            engine.release(one)
    engine.check_empty()


def test_the_queue_is_bounded_whichever_client_asks():
    engine = Engine(max_queued_requests=3, **ONE)
    running = engine.ask([1, 2], 5)
    engine.step()
    waiting = [engine.ask([3, i], 5, client=i % 2) for i in range(3)]
    late = [engine.ask([4, i], 5, client=i % 2) for i in range(2)]
    assert [refusal(engine, one) for one in late] == [Refusal.QUEUE_REQUESTS] * 2
    assert engine.metrics.total("refused_queue_requests") == 2
    finish_and_check(engine, [running, *waiting])
    assert all(one.told == [0] for one in late), "the refused are told at once, and nothing else"
    check_released(engine)


def test_the_queue_is_bounded_by_tokens():
    engine = Engine(max_queued_tokens=100, **ONE)
    running = engine.ask([1] * 500, 5)
    engine.step()
    waiting = [engine.ask([3] * 40, 5) for _ in range(2)]
    assert refusal(engine, engine.ask([4] * 40, 5)) == Refusal.QUEUE_TOKENS
    waiting.append(engine.ask([5] * 20, 5))
    finish_and_check(engine, [running, *waiting])
    check_released(engine)


def test_with_nobody_waiting_a_request_is_let_in_whatever_the_bounds():
    engine = Engine(max_queued_requests=0, max_queued_tokens=1)
    finish_and_check(engine, [*engine.ask_samples([1] * 50, 5, number=3)])
    check_released(engine)


def test_samples_of_a_prompt_are_refused_together():
    engine = Engine(max_queued_requests=3, **ONE)
    engine.ask([1, 2], 5)
    engine.step()
    waiting = engine.ask_samples([3], 5, number=2)
    refused = engine.ask_samples([4], 5, number=2)
    assert {refusal(engine, one) for one in refused} == {Refusal.QUEUE_REQUESTS}
    last = engine.ask([5], 5)
    finish_and_check(engine, [*waiting, last])
    check_released(engine)


def test_a_preempted_request_waits_whatever_the_bounds():
    engine = Engine(
        pool_tokens=120, max_length=100, admission="watermark", watermark=1.0, max_queued_requests=0,
        running_max_req_size=8,
    )  # fmt: skip
    asked = []
    for token in range(5):
        asked.append(engine.ask([token] * 10, 60))
        engine.step()
    finish_and_check(engine, asked)
    assert engine.metrics.total("preemptions") > 0
    check_released(engine)


def test_a_request_whose_time_is_up_in_the_queue_never_runs():
    engine = Engine(**ONE)
    running, waiting = engine.ask([1, 2], 50), engine.ask([3, 4], 5, timeout_s=2.0)
    engine.step()
    assert engine.scheduler.next_deadline == engine.now + 2
    engine.now += 2.0
    engine.scheduler.expire()
    engine.drain()
    assert engine.finish(waiting) == FinishReason.TIMEOUT
    assert (engine.output(waiting), waiting.told) == ([], [0])
    assert engine.scheduler.next_deadline == math.inf
    assert engine.metrics.total("expired_waiting") == 1
    finish_and_check(engine, [running])
    check_released(engine)


def test_a_request_whose_time_is_up_while_it_runs_ends_with_what_there_is():
    engine = Engine()
    short, long = engine.ask([1, 2], 50, timeout_s=10.0), engine.ask([3, 4], 50, timeout_s=100.0)
    while engine.step():
        engine.now += 1.0
    assert engine.finish(short) == FinishReason.TIMEOUT
    produced = engine.output(short)
    assert 5 < len(produced) < 12
    assert produced == short.expected(engine.vocabulary)[: len(produced)]
    assert engine.metrics.total("expired_running") == 1
    engine.check_output(long)
    check_released(engine)


def test_what_is_over_does_not_expire():
    engine = Engine()
    done, aborted, stopped = (engine.ask([token], 5, timeout_s=50.0) for token in range(3))
    engine.step()
    engine.release(aborted)
    engine.scheduler.stop(stopped.index, stopped.generation)
    engine.run()
    assert engine.scheduler.next_deadline == math.inf
    engine.now += 100
    engine.scheduler.expire()
    engine.check_output(done)
    check_released(engine)


def test_a_preempted_request_expires_with_what_it_had():
    engine = Engine(pool_tokens=120, max_length=100, admission="watermark", watermark=1.0, running_max_req_size=16)
    asked = [engine.ask([token] * 10, 80, timeout_s=1000.0) for token in range(8)]
    while not engine.metrics.total("preemptions"):
        engine.step()
    preempted = next(one for one in asked if engine.field(one, "preemptions"))
    had = engine.output(preempted)
    engine.now += 1000
    engine.run()
    assert all(engine.finish(one) == FinishReason.TIMEOUT for one in asked)
    assert had == engine.output(preempted) == preempted.expected(engine.vocabulary)[: len(had)]
    check_released(engine)


def saturated(**settings) -> Engine:
    """A server that has admitted one request of about 10 s after another, for a while."""
    engine = Engine(**ONE, **settings)
    for _ in range(16):
        engine.ask([1, 2], 10)
    while len(engine.scheduler._waiting) > 2:
        engine.step()
        engine.now += 1.0
    return engine


def test_what_would_wait_longer_than_the_target_is_refused_at_once():
    engine = saturated(ttft_target_s=60.0)
    accepted = []
    while not engine.finish(asked := engine.ask([3], 10)):
        accepted.append(asked)
    assert refusal(engine, asked) == Refusal.TOO_LATE
    assert float(engine.table.records[asked.index]["predicted_wait"]) > 60
    assert 1 <= len(accepted) <= 5
    came = engine.now
    while engine.step():
        engine.now += 1.0
    assert all(engine.table.records[one.index]["started"] - came <= 60 for one in accepted)
    assert not engine.finish(engine.ask([3], 10)), "with nobody waiting there is nothing to refuse"


def test_a_server_that_starts_under_full_load_begins_with_a_short_queue():
    for target, number in ((60.0, 16), (None, 50)):
        engine = Engine(ttft_target_s=target, **ONE)
        engine.ask([1], 100)
        engine.ask([2], 10)
        engine.step()
        asked = [engine.ask([1], 10) for _ in range(49)]
        assert sum(not engine.finish(one) for one in asked) == number - 1


def test_a_crowd_that_may_all_run_at_once_is_let_in():
    engine = Engine(ttft_target_s=60.0, running_max_req_size=64)
    finish_and_check(engine, [engine.ask([i], 10) for i in range(64)])


def test_what_would_expire_in_the_queue_is_refused_at_once():
    engine = saturated()
    assert refusal(engine, engine.ask([3], 10, timeout_s=5.0)) == Refusal.TOO_LATE
    assert not engine.finish(engine.ask([3], 10, timeout_s=500.0))
    assert not engine.finish(engine.ask([3], 10))


def test_an_urgent_request_is_not_refused_for_those_that_can_wait():
    engine = saturated(ttft_target_s=60.0, schedule_policy="priority")
    while not engine.finish(asked := engine.ask([3], 10)):
        pass
    assert refusal(engine, asked) == Refusal.TOO_LATE
    assert not engine.finish(engine.ask([3], 10, priority=-1))


@pytest.mark.parametrize("policy", ["fcfs", "shortest_predicted", "fair_share"])
def test_overload_with_everything_at_once_loses_nothing(policy: str):
    engine = Engine(
        pool_tokens=150, max_length=100, running_max_req_size=6, max_queued_requests=6, ttft_target_s=40.0,
        schedule_policy=policy, schedule_aging_s=20.0, admission="watermark", watermark=1.0,
    )  # fmt: skip
    asked = []
    for i in range(120):
        asked += engine.ask_samples(
            [i % 5] * (1 + i % 20), 1 + i % 30, number=1 + i % 2, tenant=i % 3, timeout_s=5.0 + i
        )
        if i % 7 == 0:
            engine.release(asked.pop())
        engine.step()
        engine.now += 1.0
    while engine.step():
        engine.now += 1.0
    reasons = [engine.finish(one) for one in asked]
    assert set(reasons) == {FinishReason.LENGTH, FinishReason.REFUSED, FinishReason.TIMEOUT}
    for one, reason in zip(asked, reasons, strict=True):
        if reason == FinishReason.LENGTH:
            engine.check_output(one)
    check_released(engine)
