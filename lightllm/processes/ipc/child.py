"""How a child process begins and ends. The supervisor's first message says who it is and hands it what it shares.

Children are started as `python -m lightllm.processes.NAME DESCRIPTOR`, the descriptor being their control channel.
A child lives as long as that channel: the supervisor ends it by closing its end, on purpose or by dying.
"""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lightllm.base import log
from lightllm.base.errors import LightLLMError
from lightllm.base.messages import Failed, Start
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable
from lightllm.base.shared_memory import SharedMemory
from lightllm.base.status import Status
from lightllm.processes.ipc.channels import Channel, Closed, wait_for


@dataclass(frozen=True)
class Child:
    """What the supervisor gave this process."""

    control: Channel
    start: Start
    descriptors: dict[str, int]
    table: RequestTable
    status: Status
    metrics: Metrics

    def channel(self, name: str) -> Channel:
        return Channel.of_descriptor(self.descriptors[name])

    def memory(self, name: str) -> SharedMemory:
        return SharedMemory(self.descriptors[name])


def run(process: str, main: Callable[[Child], None]) -> None:
    """Waits for Start and runs `main`. What stops it is reported to the supervisor in one line."""
    # The supervisor decides when a child ends; a terminal's ctrl-C or a service manager's SIGTERM reaches all of them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    # The lowest number that is free: what waits for descriptors takes those below 1,024, the supervisor may have more.
    descriptor = os.dup(int(sys.argv[-1]))
    os.close(int(sys.argv[-1]))
    threading.Thread(target=_end_with_supervisor, args=(descriptor,), daemon=True).start()
    control = Channel.of_descriptor(descriptor)
    try:
        me = receive_start(control)
        log.setup(process, me.start.config.log_level)
        main(me)
    except Closed:
        sys.exit(0)  # the process at the other end is gone; the supervisor sees that too and decides
    except LightLLMError as error:
        _report(control, str(error))
    except Exception as error:
        log.get(__name__).exception("unexpected error")
        _report(control, _one_line(error))


def _report(control: Channel, reason: str) -> NoReturn:
    with contextlib.suppress(Closed):  # the supervisor is gone too
        control.send(Failed(reason))
    sys.exit(1)


def _one_line(error: Exception) -> str:
    """The beginning of an error of a library, which may go on for pages."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]


def _end_with_supervisor(descriptor: int) -> None:
    """Ends this process when the other end of its control channel closes, whatever it is doing."""
    poll = select.poll()
    poll.register(descriptor, 0)  # hang-up is reported without being asked for
    poll.poll()
    os._exit(0)


def receive_start(control: Channel) -> Child:
    """Waits for the supervisor's first message."""
    wait_for([control])
    start, descriptors = control.receive_with_descriptors()
    assert isinstance(start, Start), "the first message to a child is Start"
    named = dict(zip(start.descriptors, descriptors, strict=True))
    return Child(
        control=control,
        start=start,
        descriptors=named,
        table=RequestTable(SharedMemory(named["requests"]), start.shape),
        status=Status(SharedMemory(named["status"])),
        metrics=Metrics(SharedMemory(named["metrics"]), start.metrics_block),
    )
