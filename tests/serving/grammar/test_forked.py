"""What runs in a child gives its answer, or is ended, and leaves nothing behind."""

import os
import time

import pytest

from lightllm.serving.grammar import forked
from lightllm.serving.grammar.forked import ForkedError, in_child


def fail() -> bytes:
    raise ValueError("it is wrong")


def take_memory() -> bytes:
    return bytes(1 << 28)


def write_where_the_parent_does() -> bytes:
    return b"%d" % sum(os.write(standard, b"this is seen by nobody") for standard in (1, 2))


def test_it_gives_what_the_work_returns_however_long_that_is():
    assert in_child(lambda: b"x" * 5_000_000, timeout_s=30.0) == b"x" * 5_000_000
    assert in_child(lambda: str(os.getppid()).encode(), timeout_s=30.0) == str(os.getpid()).encode()


def test_a_mistake_is_told():
    with pytest.raises(ForkedError, match="it is wrong"):
        in_child(fail, timeout_s=30.0)


def test_what_takes_too_long_is_ended(monkeypatch):
    children, fork = [], os.fork
    monkeypatch.setattr(os, "fork", lambda: children.append(fork()) or children[-1])
    with pytest.raises(ForkedError, match=r"longer than 0\.1 s"):
        in_child(lambda: time.sleep(60) or b"", timeout_s=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_what_takes_too_much_memory_is_refused(monkeypatch):
    monkeypatch.setattr(forked, "_MOST_MEMORY", 1 << 26)
    with pytest.raises(ForkedError, match="memory"):
        in_child(take_memory, timeout_s=30.0)


def test_it_has_no_files_of_its_parent(capfd):
    readable, writable = os.pipe()
    with open(readable, "rb") as pipe:
        assert in_child(write_where_the_parent_does, timeout_s=30.0) == b"44"
        answer = in_child(lambda: str(os.path.exists(f"/proc/self/fd/{writable}")).encode(), timeout_s=30.0)
        os.close(writable)
        assert pipe.read() == b""
    assert answer == b"False"
    assert capfd.readouterr() == ("", "")
