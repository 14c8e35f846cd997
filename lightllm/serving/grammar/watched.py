"""Threads for calls into a library of which some may have no end: these are given up, and their threads with them."""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence

from lightllm.serving.grammar.engine import HopelessError

Call = Callable[[], None]

_LOOK_S = 0.01  # how often a call that is not over is looked at
_MOST_LOST = 8  # threads; a process that has lost more is better replaced


class WatchedThreads:
    """For one thread that calls `run`. `limit_s` is time of the processor, so a busy machine ends no call."""

    def __init__(self, count: int, *, limit_s: float):
        self._limit_s = limit_s
        self._calls: queue.SimpleQueue[tuple[int, Call]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self._numbers = itertools.count()
        self._threads = [_Thread(self._calls, self._done) for _ in range(count)]
        self._lost: list[_Thread] = []

    def run(self, calls: Sequence[Call]) -> list[bool]:
        """Returns for each whether it came to its end, in time. Raises HopelessError if too many never do."""
        numbers = [next(self._numbers) for _ in calls]
        for number, call in zip(numbers, calls, strict=True):
            self._calls.put((number, call))
        waiting, failed = set(numbers), set[int]()
        while waiting:
            try:
                number, is_fine = self._done.get(timeout=_LOOK_S)
            except queue.Empty:
                given_up = self._give_up()
                failed |= given_up
                waiting -= given_up
            else:
                waiting.discard(number)
                failed |= set() if is_fine else {number}
        return [number not in failed for number in numbers]

    def _give_up(self) -> set[int]:
        """Replaces threads whose call takes too long. Returns the numbers of these calls."""
        late = {thread: number for thread in self._threads if (number := thread.late(self._limit_s)) is not None}
        for thread in late:
            thread.is_lost = True
            self._threads.remove(thread)
            self._threads.append(_Thread(self._calls, self._done))
        self._lost = [thread for thread in [*self._lost, *late] if thread.is_alive()]
        if len(self._lost) > _MOST_LOST:
            raise HopelessError(f"{len(self._lost)} masks are still being computed, each for more than its time")
        return set(late.values())


class _Thread(threading.Thread):
    """Puts (number of a call, whether it raised nothing) into `done`."""

    def __init__(self, calls: "queue.SimpleQueue[tuple[int, Call]]", done: "queue.SimpleQueue[tuple[int, bool]]"):
        super().__init__(daemon=True)
        self._calls, self._done = calls, done
        self._now: tuple[int, float] | None = None  # the call, and the thread's processor time when it began
        self.is_lost = False
        self.start()

    def run(self) -> None:
        while not self.is_lost:
            number, call = self._calls.get()
            self._now = number, time.thread_time()
            try:
                call()
                is_fine = True
            except Exception:  # libraries raise anything
                is_fine = False
            self._now = None
            self._done.put((number, is_fine))

    def late(self, limit_s: float) -> int | None:
        """The number of its call, if that takes longer."""
        if (now := self._now) is None or self.ident is None:
            return None
        number, began = now
        return number if time.clock_gettime(time.pthread_getcpuclockid(self.ident)) - began > limit_s else None
