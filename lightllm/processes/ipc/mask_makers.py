"""A worker's wire to the process `grammar`, which may be started again at any time."""

import select

import numpy as np

from lightllm.base.errors import Closed
from lightllm.base.messages import Connect, MaskOrders, MasksReady
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel


class MaskMakers:
    """See compute.execution.grammar_masks. Reads the worker's control channel, which says nothing else."""

    def __init__(self, me: child.Child):
        self._control = me.control
        self._channel: Channel | None = me.channel("grammar")

    def send(self, orders: np.ndarray) -> None:
        """What is sent while there is nobody is lost; `wait` tells of that."""
        if self._channel is not None:
            try:
                self._channel.send(MaskOrders(orders.tobytes()))
            except Closed:
                self._lose()

    def wait(self, seconds: float) -> bool:
        sources = [self._control] if self._channel is None else [self._control, self._channel]
        readable, _, _ = select.select(sources, [], [], seconds)
        if self._channel in readable:
            self._take_news()
        return self._control in readable and self._obey()

    def _take_news(self) -> None:
        assert self._channel is not None, "it is readable"
        try:
            while (message := self._channel.receive()) is not None:
                assert isinstance(message, MasksReady), "the process says nothing else"
        except Closed:
            self._lose()

    def _lose(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None  # its successor comes with Connect

    def _obey(self) -> bool:
        message, descriptors = self._control.receive_with_descriptors()
        if message is None:
            return False
        assert isinstance(message, Connect), "the supervisor sends nothing else to a worker that runs"
        self._lose()
        self._channel = Channel.of_descriptor(descriptors[0])
        return True
