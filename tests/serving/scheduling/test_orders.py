"""Each order of the queue against what it promises, and that none of them passes a request over for ever."""

import itertools

import numpy as np
import pytest

from lightllm.serving.scheduling.fair_share import FairShare
from lightllm.serving.scheduling.orders import LongestPrefix, Order, by_arrival, by_predicted_length, by_priority
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.waiting import Waiting
from tests.serving.scheduling.engine import Asked, Engine

POLICIES = ["fcfs", "priority", "shortest_predicted", "longest_prefix", "fair_share"]
ONE_AT_A_TIME = {"running_max_req_size": 1, "schedule_aging_s": 1e6, "max_queued_requests": 100}
_numbers = itertools.count()


def request(*, priority: int = 0, expected: int = 10, prompt: int = 10, tenant: int = 0, came: float = 0.0) -> Request:
    return Request(
        index=0, generation=1, order=next(_numbers), prompt_page=0, prompt_length=prompt, max_tokens=100,
        max_tokens_given=True, min_tokens=0, num_logprobs=-1, priority=priority, tenant=tenant, salt=0, came=came,
        deadline=np.inf,
        stop_tokens=np.empty(0, dtype=np.int32), can_stop=True, sampling=np.empty(0),
        expected_tokens=expected,
    )  # fmt: skip


def drained(order: Order) -> list[Request]:
    """Everyone who waits, as they are admitted."""
    admitted = []
    while (head := order.head) is not None:
        order.admit(head)
        head.has_started = True
        admitted.append(head)
    return admitted


def filled(order: Order, requests: list[Request]) -> Order:
    for one in requests:
        order.add(one)
    return order


def started(engine: Engine, asked: list[Asked]) -> list[int]:
    """Which of the requests were admitted, first to last: each runs to its end before the next."""
    admitted = []
    while engine.step():
        engine.now += 1.0
        new = [i for i, one in enumerate(asked) if engine.table.records[one.index]["started"] and i not in admitted]
        admitted += sorted(new, key=lambda i: engine.table.records[asked[i].index]["started"])
    for one in asked:
        engine.check_output(one)
    return admitted


def test_by_default_the_oldest_goes_first():
    engine = Engine(**ONE_AT_A_TIME)
    asked = [engine.ask([i] * 5, 3) for i in range(5)]
    assert started(engine, asked) == [0, 1, 2, 3, 4]


def test_the_smallest_priority_goes_first_and_equals_by_age():
    engine = Engine(schedule_policy="priority", **ONE_AT_A_TIME)
    asked = [engine.ask([i] * 5, 3, priority=priority) for i, priority in enumerate([0, 5, -1, 0, -1])]
    assert started(engine, asked) == [2, 4, 0, 3, 1]


def test_the_shortest_expected_answer_goes_first():
    engine = Engine(schedule_policy="shortest_predicted", **ONE_AT_A_TIME)
    asked = [engine.ask([i] * 5, length) for i, length in enumerate([30, 4, 12, 4])]
    assert started(engine, asked) == [1, 3, 2, 0]


def test_the_longest_prefix_in_the_tree_goes_first_and_is_counted_again():
    engine = Engine(schedule_policy="longest_prefix", **ONE_AT_A_TIME)
    prompts = [[9] * 40, [1] * 30, [1] * 20 + [2] * 5, [1] * 10 + [3] * 9, [9] * 30 + [4] * 9]
    asked = [engine.ask(prompt, 3) for prompt in prompts]
    # Nothing is in the tree at first. What the first leaves there draws the last, and so on.
    assert started(engine, asked) == [0, 4, 1, 2, 3]


def test_a_prefix_that_was_evicted_draws_nobody():
    lengths: dict[Request, int] = {}
    order = LongestPrefix(lambda one: lengths[one])
    first, second, third = (request() for _ in range(3))
    lengths |= {first: 0, second: 50, third: 20}
    filled(order, [first, second, third])
    lengths[second] = 10
    assert drained(order) == [third, second, first]


def test_tenants_take_turns_by_what_they_were_served():
    engine = Engine(schedule_policy="fair_share", **ONE_AT_A_TIME)
    asked = [engine.ask([i] * 5, 4, tenant=tenant) for i, tenant in enumerate([1, 1, 1, 1, 2, 2, 3])]
    assert started(engine, asked) == [0, 4, 6, 1, 5, 2, 3]


def test_service_counts_tokens_and_those_of_output_twice():
    order = FairShare()
    heavy = [request(tenant=1, prompt=10, expected=100) for _ in range(6)]
    light = [request(tenant=2, prompt=10, expected=30) for _ in range(18)]
    admitted = drained(filled(order, [*heavy, *light]))
    # 210 tokens against 70: one of the heavy tenant's for three of the light one's.
    assert [sum(one.tenant == 2 for one in admitted[:count]) for count in (4, 8, 12, 16)] == [3, 6, 9, 12]


def test_a_wrong_expectation_is_put_right_at_the_end():
    order = FairShare()
    filled(
        order, [request(tenant=1, expected=10), request(tenant=2, expected=10), request(tenant=1), request(tenant=2)]
    )
    first, second = order.head, None
    assert first is not None
    order.admit(first)
    first.has_started, second = True, order.head
    assert second is not None
    order.admit(second)
    second.has_started = True
    order.end(first, 90)
    order.end(second, 10)
    assert first.tenant == 1
    assert [one.tenant for one in drained(order)] == [2, 1]


def test_a_tenant_that_comes_late_gets_its_share_and_no_credit():
    order = FairShare()
    filled(order, [request(tenant=1) for _ in range(20)])
    for _ in range(10):
        assert order.head is not None
        order.admit(order.head)
    filled(order, [request(tenant=2) for _ in range(5)])
    assert sorted(one.tenant for one in drained(order)[:6]) == [1, 1, 1, 2, 2, 2]


def test_tenants_that_are_gone_are_forgotten():
    order = FairShare()
    for tenant in range(1000):
        one = request(tenant=tenant)
        order.add(one)
        order.admit(one)
        one.has_started = True
        order.end(one, 10)
    assert len(order._tenants) <= 2


@pytest.mark.parametrize(
    "order",
    [by_arrival(), by_predicted_length(), LongestPrefix(lambda _: 7), FairShare()],
    ids=lambda o: type(o).__name__,
)
def test_who_was_preempted_goes_before_those_that_never_ran(order: Order):
    preempted = request(expected=99, tenant=1)
    order.add(preempted)
    order.admit(preempted)
    preempted.has_started = True
    filled(order, [request(expected=1, tenant=2), preempted])
    assert order.head is preempted


def test_by_priority_who_was_preempted_goes_before_its_equals_only():
    urgent, preempted, equal = request(priority=-1), request(priority=0), request(priority=0)
    preempted.has_started = True
    assert drained(filled(by_priority(), [equal, urgent, preempted])) == [urgent, preempted, equal]


@pytest.mark.parametrize("policy", POLICIES)
def test_work_before_is_what_would_go_first(policy: str):
    engine = Engine(schedule_policy=policy, **ONE_AT_A_TIME)
    waiting = engine.scheduler._waiting
    asked = [request(priority=i % 3, expected=4 << i % 3, tenant=i % 2) for i in range(12)]
    for one in asked:
        waiting.add(one)
    mine = request(priority=1, expected=8, tenant=0)
    all_work = sum(one.work for one in asked)
    first = sum(one.work for one in asked if one.priority <= 1)
    assert waiting.work_before(mine) == (first if policy in ("priority", "shortest_predicted") else all_work)
    for one in asked:
        waiting.discard(one)
    assert waiting.work_before(mine) == 0


def test_a_small_tenant_has_little_work_before_it():
    order = filled(FairShare(), [request(tenant=1, prompt=10, expected=10) for _ in range(50)])
    assert order.work_before(request(tenant=2, prompt=5, expected=5)) <= 20


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_is_passed_over_beyond_the_bound_whoever_comes(policy: str):
    """Every admission is followed by a newcomer that each order but the first prefers."""
    order: Order = {
        "fcfs": by_arrival(),
        "priority": by_priority(),
        "shortest_predicted": by_predicted_length(),
        "longest_prefix": LongestPrefix(lambda one: one.prompt_length),
        "fair_share": FairShare(),
    }[policy]
    waiting, newcomers = Waiting(order, aging_s=10), itertools.count(1)

    def newcomer(now: float) -> Request:
        return request(priority=-9, expected=1, prompt=50, tenant=next(newcomers), came=now)

    def admit(now: float) -> Request:
        head = waiting.head(now)
        assert head is not None
        waiting.admit(head, now)
        head.has_started = True
        waiting.end(head, 1)
        waiting.add(newcomer(now))
        return head

    older = [request(priority=9, expected=90, prompt=5, came=0.0) for _ in range(6)]
    for one in [*older, newcomer(0.0)]:
        waiting.add(one)
    early = {admit(float(now)) for now in range(10)}
    assert policy == "fcfs" or len(early.intersection(older)) <= 1, "a fair share is one of many"
    late = [admit(10.5) for _ in range(2 * len(older))]
    assert early.union(late).issuperset(older), "2 k + 1 admissions after the aging"
    assert policy == "fcfs" or sum(one not in older for one in late) >= len(older), "the order has the other half"


def test_a_head_that_has_to_wait_stays_the_head():
    waiting = Waiting(by_predicted_length(), aging_s=5)
    large, small = request(expected=50, came=0.0), request(expected=1, came=9.0)
    first = request(expected=2, came=0.0)
    for one in (first, large):
        waiting.add(one)
    waiting.admit(first, 1.0)
    assert waiting.head(6.0) is large
    waiting.add(small)
    assert waiting.head(9.0) is large, "it is the oldest's turn until the oldest was admitted"


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_gets_what_it_gets_alone_in_any_order(policy: str):
    engine = Engine(
        pool_tokens=120, max_length=100, admission="watermark", watermark=1.0, running_max_req_size=8,
        schedule_policy=policy, schedule_aging_s=4.0,
    )  # fmt: skip
    draw = np.random.default_rng(3)
    asked = []
    for i in range(40):
        prompt = [7] * int(draw.integers(0, 15)) + draw.integers(0, 64, size=int(draw.integers(1, 20))).tolist()
        asked.append(engine.ask(prompt, int(draw.integers(1, 40)), priority=i % 3, tenant=i % 4))
        engine.step()
        engine.now += 0.1
        if i % 10 == 9:
            engine.release(asked.pop(int(draw.integers(len(asked)))))
    engine.run()
    assert engine.metrics.total("preemptions") > 0
    for one in asked:
        engine.check_output(one)
        engine.release(one)
    engine.check_empty()


@pytest.mark.parametrize("policy", POLICIES)
def test_function_calls_of_a_step_do_not_grow_with_the_queue(policy: str):
    assert calls_of_turnover(policy, 2000) <= 1.3 * calls_of_turnover(policy, 50)


def calls_of_turnover(policy: str, number: int) -> float:
    """Function calls of letting one request of `number` go and taking another in, on average of some."""
    import sys

    waiting = Engine(schedule_policy=policy, **ONE_AT_A_TIME).scheduler._waiting
    draw, count, turns = np.random.default_rng(0), 0, 200

    def another() -> Request:
        return request(
            priority=int(draw.integers(9)), expected=int(draw.integers(1, 900)), tenant=int(draw.integers(20))
        )

    for _ in range(number):
        waiting.add(another())

    def note(_frame, event: str, _argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    for now in range(turns):
        new = another()
        sys.setprofile(note)
        head = waiting.head(now)
        assert head is not None
        waiting.admit(head, now)
        head.has_started = True
        waiting.work_before(new)
        waiting.add(new)
        waiting.end(head, 5)
        sys.setprofile(None)
    return count / turns
