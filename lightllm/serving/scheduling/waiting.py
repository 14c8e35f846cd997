"""A request as the scheduler knows it, and the queue of those that wait to run."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, eq=False)
class Request:
    """What of a request is looked at only when it starts, ends or is preempted."""

    index: int  # of its record in the request table
    generation: int
    order: int  # of arrival
    prompt_length: int
    max_tokens: int
    max_tokens_given: bool
    min_tokens: int
    stop_tokens: NDArray[np.int32]
    # Known when it (last) began: the prompt and what was generated before. None: not read yet, or to be read again.
    tokens: NDArray[np.int32] | None = None
    row: int = -1  # -1: waits, or has ended
    has_started: bool = False  # has been admitted before
    has_ended: bool = False


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
