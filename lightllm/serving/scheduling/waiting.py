"""The queue of requests that wait to run: an order, and a bound on how long it may pass anyone over.

Once the oldest request has waited `aging_s`, every second admission is the oldest's. So from then on a request with k
older ones before it waits for 2 k + 1 admissions at most, whatever comes after it, and the order still has the other
half. By arrival this changes nothing.
"""

from collections.abc import Iterator

from lightllm.serving.scheduling.keyed_heap import KeyedHeap
from lightllm.serving.scheduling.orders import Order
from lightllm.serving.scheduling.request import Request


class Waiting:
    """`num_new` requests never ran, with `new_tokens` in their prompts and `new_work`; the others were preempted."""

    def __init__(self, order: Order, *, aging_s: float):
        self._order, self._aging_s = order, aging_s
        self._by_age: KeyedHeap[Request] = KeyedHeap()
        self._is_turn_of_oldest = False
        self.num_new = self.new_tokens = self.new_work = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Request]:
        """In no particular order."""
        return iter(self._by_age)

    def head(self, now: float) -> Request | None:
        """Who goes next: the same one until it is admitted, ends, or another one comes that goes first."""
        overdue = self._overdue(now)
        return overdue if self._is_turn_of_oldest and overdue is not None else self._order.head

    def add(self, request: Request) -> None:
        self._by_age.add(request)
        self._order.add(request)
        self._count(request, 1)

    def discard(self, request: Request) -> None:
        """It ends. Nothing happens if it does not wait."""
        if request in self._by_age:
            self._order.discard(request)
            self._leave(request)

    def admit(self, request: Request, now: float) -> None:
        """The head runs from now on."""
        self._is_turn_of_oldest = self._overdue(now) is not request or not self._is_turn_of_oldest
        self._order.admit(request)
        self._leave(request)

    def end(self, request: Request, num_output: int) -> None:
        """A request that was admitted has ended with so many output tokens."""
        self._order.end(request, num_output)

    def work_before(self, request: Request) -> int:
        """As Order.work_before."""
        return self._order.work_before(request)

    def _overdue(self, now: float) -> Request | None:
        oldest = self._by_age.head
        return oldest if oldest is not None and now - oldest.came > self._aging_s else None

    def _leave(self, request: Request) -> None:
        self._by_age.discard(request)
        self._count(request, -1)

    def _count(self, request: Request, change: int) -> None:
        if not request.has_started:
            self.num_new += change
            self.new_tokens += change * request.prompt_length
            self.new_work += change * request.work
