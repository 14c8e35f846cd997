"""The queue of requests that wait to run."""

from bisect import bisect_left, insort
from operator import attrgetter

from lightllm.serving.scheduling.request import Request

_order = attrgetter("order")


class Waiting:
    """Requests in order of arrival. One that was preempted is older than those that never ran, so it comes first."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def head(self) -> Request | None:
        return self._requests[0] if self._requests else None

    def add(self, request: Request) -> None:
        insort(self._requests, request, key=_order)

    def discard(self, request: Request) -> None:
        at = bisect_left(self._requests, request.order, key=_order)
        if self._requests[at : at + 1] == [request]:
            del self._requests[at]
