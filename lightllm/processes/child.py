"""How a child process begins: the supervisor's first message says who it is and hands it what it shares.

Children are started as `python -m lightllm.processes.NAME DESCRIPTOR`, the descriptor being their control channel.
"""

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass

from lightllm.base import log
from lightllm.base.errors import LightLLMError
from lightllm.base.messages import Failed, Start
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable
from lightllm.base.shared_memory import SharedMemory
from lightllm.base.status import Status
from lightllm.processes.channels import Channel, Closed


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
    """Waits for Start and runs `main`. Errors meant for people are reported to the supervisor in one line."""
    control = Channel.of_descriptor(int(sys.argv[1]))
    try:
        child = _receive_start(process, control)
        try:
            main(child)
        except LightLLMError as error:
            control.send(Failed(str(error)))
            sys.exit(1)
    except Closed:
        sys.exit(0)  # the supervisor is gone: there is nobody left to work for
    except KeyboardInterrupt:
        sys.exit(130)


def _receive_start(process: str, control: Channel) -> Child:
    select.select([control], [], [])
    start, descriptors = control.receive_with_descriptors()
    assert isinstance(start, Start), "the first message to a child is Start"
    log.setup(process, start.config.log_level)
    named = dict(zip(start.descriptors, descriptors, strict=True))
    return Child(
        control=control,
        start=start,
        descriptors=named,
        table=RequestTable(SharedMemory(named["requests"]), start.shape),
        status=Status(SharedMemory(named["status"])),
        metrics=Metrics(SharedMemory(named["metrics"]), start.metrics_block),
    )
