"""Waits for many things and does what each calls for: sockets, ends of processes, and one alarm clock."""

import selectors
import time
from collections.abc import Callable
from typing import Protocol

Action = Callable[[], None]
_LONGEST_WAIT_S = 3600.0  # an alarm may be further off than the system can wait


class Source(Protocol):
    def fileno(self) -> int: ...


class Loop:
    """Not thread-safe; wake it by a socket it waits for."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._alarm: tuple[float, Action] | None = None  # time.monotonic(), and what to do then
        self._is_over = False

    def when_readable(self, source: Source | int, action: Action) -> None:
        self._selector.register(source, selectors.EVENT_READ, action)

    def forget(self, source: Source | int) -> None:
        """Waits for `source` no longer, if it did. To be called before it is closed."""
        if source in self._selector.get_map():
            self._selector.unregister(source)

    def after(self, seconds: float, action: Action) -> None:
        """Sets the alarm; the one before is off."""
        self._alarm = time.monotonic() + seconds, action

    def end(self) -> None:
        """Makes `run` return."""
        self._is_over = True

    def run(self) -> None:
        while not self._is_over:
            for key, _ in self._selector.select(self._seconds_to_alarm()):
                # An earlier action of this round may have ended the loop or forgotten this source.
                if not self._is_over and self._selector.get_map().get(key.fd) is key:
                    key.data()
            self._ring()

    def close(self) -> None:
        self._selector.close()

    def _seconds_to_alarm(self) -> float | None:
        return None if self._alarm is None else min(max(0.0, self._alarm[0] - time.monotonic()), _LONGEST_WAIT_S)

    def _ring(self) -> None:
        if self._alarm is not None and time.monotonic() >= self._alarm[0]:
            _, action = self._alarm
            self._alarm = None
            action()
