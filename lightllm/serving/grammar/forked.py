"""Work that may take too long, or too much memory, in a child of this process that can be ended."""

import contextlib
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

_MOST_MEMORY = 2 << 30  # bytes beside what the parent has
_BLOCK = 1 << 20
_DONE, _REFUSED = b"d", b"r"


class ForkedError(Exception):
    """The work failed: says why."""


def in_child(work: Callable[[], bytes], *, timeout_s: float) -> bytes:
    """What `work` returns, which runs without threads, files or sockets of this process. Raises ForkedError."""
    readable, writable = os.pipe()
    # Other threads may hold locks that the child then waits for in vain: until it is ended.
    if (pid := os.fork()) == 0:
        _be_child(work, writable, timeout_s)
    os.close(writable)
    try:
        answer = _read_all(readable, time.monotonic() + timeout_s)
    finally:
        os.close(readable)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if answer is None:
        raise ForkedError(f"it took longer than {timeout_s:g} s to compile; make it simpler")
    if answer[:1] == _DONE:
        return answer[1:]
    raise ForkedError(answer[1:].decode(errors="replace") or "it took too much memory to compile; make it simpler")


def _be_child(work: Callable[[], bytes], writable: int, timeout_s: float) -> None:
    """Never returns."""
    try:
        # A child that outlives its parent does not do so for long.
        seconds = 1 + math.ceil(timeout_s) * (os.cpu_count() or 1)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, writable)
        os.closerange(writable + 1, os.sysconf("SC_OPEN_MAX"))
        try:
            answer = _DONE + work()
        except Exception as error:
            answer = _REFUSED + str(error).encode(errors="replace")
        with open(writable, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def _read_all(readable: int, deadline: float) -> bytes | None:
    """None: there was no end of it in time."""
    blocks: list[bytes] = []
    while select.select([readable], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (block := os.read(readable, _BLOCK)):
            return b"".join(blocks)
        blocks.append(block)
    return None
