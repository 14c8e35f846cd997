"""A process of the engine as its supervisor sees it: how it is started, spoken to, judged and ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

from lightllm.base import env
from lightllm.base.errors import Closed
from lightllm.base.messages import Message, Ready
from lightllm.processes.ipc.channels import Channel

Command = Callable[[str], list[str]]


def python_module(process: str) -> list[str]:
    """How a process is started. -P: a file of the user's working directory must not pass for this package."""
    return [sys.executable, "-P", "-m", f"lightllm.processes.{process}"]


class Member:
    """Someone with a control channel: a child process, or this very process as its own client."""

    def __init__(self, process: str, index: int, control: socket.socket):
        self.process, self.index = process, index
        self.control = Channel(control)
        self.ready: Ready | None = None
        self.failure = ""  # why it says it cannot go on

    @property
    def label(self) -> str:
        return f"{self.process} {self.index}" if self.process in ("api", "worker") else self.process

    def send(self, message: Message, descriptors: list[int] | None = None) -> None:
        """Sends, unless nobody is there any more: that is noticed elsewhere."""
        try:
            self.control.send(message, descriptors)
        except Closed:
            return

    def reap(self, deadline: float) -> None:
        """Waits until `deadline` (time.monotonic()) for it to end, then kills it. Its control channel was closed."""


class ChildProcess(Member):
    """A member that was started as a process."""

    def __init__(self, process: str, index: int, command: list[str]):
        ours, theirs = Channel.pair()
        super().__init__(process, index, ours)
        with theirs:
            self._popen = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=env.child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a library prints goes to standard error: the user's own output stays clean
                process_group=0,  # a terminal's ctrl-C is for the supervisor alone
            )
        self.exit = os.pidfd_open(self._popen.pid)  # readable when the process has ended

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def severity(self) -> int:
        """How likely it ended by itself and not because another one did: a signal, a stated failure, a code."""
        code = self._popen.poll()
        return 3 if code is not None and code < 0 else 2 if self.failure else 1 if code else 0

    @property
    def cause(self) -> str:
        """How it ended, in one line."""
        code = self._popen.poll()
        if code is not None and code < 0:
            hint = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
            return f"{self.label} (pid {self.pid}) was killed by {signal.Signals(-code).name}{hint}"
        return (
            f"{self.label}: {self.failure}" if self.failure else f"{self.label} (pid {self.pid}) ended with code {code}"
        )

    def reap(self, deadline: float) -> None:
        try:
            self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        os.close(self.exit)


def end_all(members: Iterable[Member], *, within_s: float) -> None:
    """Ends these processes, which live as long as their control channels; those that take longer are killed."""
    members, deadline = list(members), time.monotonic() + within_s
    for member in members:
        member.control.close()
    for member in members:
        member.reap(deadline)
