"""Who of the waiting requests goes next: one interface, and the orders that need no state but their keys.

A request that was preempted goes before those that never ran; by priority, before those of its own priority. What no
order sees to, that nobody waits for ever, is the queue's business (waiting.py).
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from lightllm.base.config import SchedulePolicy
from lightllm.serving.scheduling.fair_share import FairShare
from lightllm.serving.scheduling.keyed_heap import KeyedHeap
from lightllm.serving.scheduling.request import Request


class Order(Protocol):
    """The seam: another order is another class. Nothing here may cost more than O(log n)."""

    @property
    def head(self) -> Request | None:
        """Who goes next, if anybody waits."""
        ...

    def add(self, request: Request) -> None: ...

    def discard(self, request: Request) -> None:
        """It no longer waits. Nothing happens if it did not."""
        ...

    def admit(self, request: Request) -> None:
        """It waits no longer, because it runs from now on."""
        ...

    def end(self, request: Request, num_output: int) -> None:
        """A request that was admitted has ended with so many output tokens."""
        ...

    def work_before(self, request: Request) -> int:
        """About how many tokens of work (Request.work) wait that would go before this request, if it waited too."""
        ...


class ByKey:
    """The least key first, and of equals the one that arrived first.

    `level` is a coarse form of the key, with few values: work that waits is summed by it.
    """

    def __init__(self, key: Callable[[Request], Any], level: Callable[[Request], int]):
        self._key, self._level = key, level
        self._heap: KeyedHeap[Request] = KeyedHeap()
        self._work: dict[int, int] = {}  # tokens that wait, by level

    @property
    def head(self) -> Request | None:
        return self._heap.head

    def add(self, request: Request) -> None:
        self._heap.add(request, self._key(request))
        level = self._level(request)
        self._work[level] = self._work.get(level, 0) + request.work

    def discard(self, request: Request) -> None:
        if request in self._heap:
            self._heap.discard(request)
            level = self._level(request)
            self._work[level] -= request.work
            if not self._work[level]:
                del self._work[level]

    def work_before(self, request: Request) -> int:
        level = self._level(request)
        return sum(work for other, work in self._work.items() if other <= level)

    def admit(self, request: Request) -> None:
        self.discard(request)

    def end(self, request: Request, num_output: int) -> None:
        """Keys do not depend on what has run."""


def order(policy: SchedulePolicy, *, prefix_length: Callable[[Request], int]) -> Order:
    """The order that a flag names. prefix_length(request): tokens of its prompt that the tree has now."""
    match policy:
        case "priority":
            return by_priority()
        case "shortest_predicted":
            return by_predicted_length()
        case "longest_prefix":
            return LongestPrefix(prefix_length)
        case "fair_share":
            return FairShare()
        case _:
            return by_arrival()


def by_arrival() -> ByKey:
    """First come, first served. Who was preempted came before those that never ran."""
    return ByKey(lambda request: request.order, lambda request: 0)


def by_priority() -> ByKey:
    """The smallest priority first."""
    return ByKey(lambda request: (request.priority, not request.has_started), lambda request: request.priority)


def by_predicted_length() -> ByKey:
    """The shortest expected output first."""

    def level(request: Request) -> int:
        return request.expected_tokens.bit_length()

    return ByKey(lambda request: (not request.has_started, request.expected_tokens), level)


class LongestPrefix:
    """The longest prefix in the tree first, so that it is used before it is evicted.

    Counting it costs as much as finding it, and it changes as others run. It is counted when a request comes, again
    before the request goes, and in between for a few requests in turn, each time somebody asks who is next.
    """

    _COUNTED_AGAIN = 4  # requests each time
    _MOST_DISPLACED = 8  # heads that turn out to have less than was thought, each time

    def __init__(self, prefix_length: Callable[[Request], int]):
        """prefix_length(request): tokens of its prompt that the tree has now."""
        self._prefix_length = prefix_length
        self._heap: KeyedHeap[Request] = KeyedHeap()
        self._turns: deque[Request] = deque()
        self._work = 0

    @property
    def head(self) -> Request | None:
        for _ in range(min(self._COUNTED_AGAIN, len(self._turns))):
            request = self._turns.popleft()
            if request in self._heap:
                self._count(request)
                self._turns.append(request)
        for _ in range(self._MOST_DISPLACED):
            head = self._heap.head
            if head is None or self._heap.key(head) == self._count(head):
                return head
        return self._heap.head

    def add(self, request: Request) -> None:
        self._count(request)
        self._turns.append(request)
        self._work += request.work

    def discard(self, request: Request) -> None:
        if request in self._heap:
            self._heap.discard(request)
            self._work -= request.work

    def work_before(self, request: Request) -> int:
        """All of it: whose prefixes will have grown by then is not known."""
        return self._work

    def admit(self, request: Request) -> None:
        self.discard(request)

    def end(self, request: Request, num_output: int) -> None:
        """The tree knows what has run."""

    def _count(self, request: Request) -> tuple[bool, int]:
        """Counts a request's prefix, and puts it where it belongs. Returns its key."""
        key = (not request.has_started, -self._prefix_length(request))
        self._heap.add(request, key)
        return key
