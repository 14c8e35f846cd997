"""The process that enforces grammars: clients ask whether one can be, the worker that samples orders masks of tokens.

It loads its engine when the first grammar comes. If it dies it alone is started again, and goes on from the request
table.
"""

import contextlib
import os
import select
import time

import numpy as np

from lightllm.base.errors import Closed
from lightllm.base.masks import ORDER, MaskMemory
from lightllm.base.messages import Compile, Compiled, Connect, MaskOrders, MasksReady, Ready
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel
from lightllm.serving.grammar import choice
from lightllm.serving.grammar.library import Library, Outcome, Refusal
from lightllm.serving.grammar.masks import MaskMaker
from lightllm.serving.scheduling.plan import StepLimits

_LOOK_AGAIN_S = 0.001  # whether tokens have come that an order lacks
_LOOK_AT_JOBS_S = 0.1  # whether one takes too long


class GrammarProcess:
    """The channels around a library of grammars and a maker of masks."""

    def __init__(self, me: child.Child):
        config, self._metrics = me.start.config, me.metrics
        self._control, self._table = me.control, me.table
        self._worker: Channel | None = me.channel("worker:0")
        self._clients: dict[int, Channel] = {
            client: me.channel(f"client:{client}") for client in range(me.start.shape.clients)
        }
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._library = Library(lambda: choice.load(config), wake=lambda: self._write())
        assert config.max_req_total_len is not None, "the supervisor has looked it up"
        lines = StepLimits.of(config, config.max_req_total_len).rows
        memory = MaskMemory(me.memory("masks"), lines=lines, vocab=me.start.vocab)
        self._maker = MaskMaker(me.table, memory, self._library)

    def run(self) -> None:
        """Serves until the control channel is gone: then raises Closed."""
        while True:
            clients = {channel: client for client, channel in self._clients.items()}
            workers = [] if self._worker is None else [self._worker]
            blocked = [channel for channel in (*workers, *clients) if channel.has_waiting]
            sources = [self._control, self._woken, *workers, *clients]
            readable, writable, _ = select.select(sources, blocked, [], self._patience())
            if self._control in readable:
                self._obey()
            if self._woken in readable:
                os.read(self._woken, 4096)
            self._library.take_finished()
            self._library.expire()
            if self._worker in {*readable, *writable}:
                self._take_orders()
            self._make_masks()
            for channel in {*readable, *writable} & clients.keys():
                self._serve_client(clients[channel], channel)

    def _patience(self) -> float | None:
        if self._library.is_busy:
            return _LOOK_AT_JOBS_S
        return _LOOK_AGAIN_S if self._maker.is_waiting else None

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it will be read anyway
            os.write(self._wake, b"w")

    def _take_orders(self) -> None:
        assert self._worker is not None, "it is readable"
        try:
            self._worker.flush()
            while (message := self._worker.receive()) is not None:
                assert isinstance(message, MaskOrders), "the worker only orders masks"
                self._maker.order(np.frombuffer(message.orders, dtype=ORDER))
        except Closed:
            self._worker.close()
            self._worker = None  # the supervisor knows, and ends this process or the whole

    def _make_masks(self) -> None:
        started = time.perf_counter()
        if self._worker is None or not self._maker.is_waiting or not (made := self._maker.make()):
            return
        self._metrics.add("masks_made", made)
        self._metrics.add("mask_seconds", time.perf_counter() - started)
        with contextlib.suppress(Closed):  # told of when it is read
            self._worker.send(MasksReady())

    def _serve_client(self, client: int, channel: Channel) -> None:
        try:
            channel.flush()
            while (message := channel.receive()) is not None:
                assert isinstance(message, Compile), "clients only ask about grammars"
                self._compile(channel, message)
        except Closed:  # its successor comes with Connect
            channel.close()
            if self._clients.get(client) is channel:
                del self._clients[client]

    def _compile(self, channel: Channel, message: Compile) -> None:
        def answer(outcome: Outcome) -> None:
            self._metrics.observe("grammar_compile_duration", time.perf_counter() - started)
            refusal = outcome if isinstance(outcome, Refusal) else Refusal("")
            with contextlib.suppress(Closed, OSError):  # the client has left meanwhile
                channel.send(Compiled(message.number, refusal.reason, refusal.is_ours))

        started = time.perf_counter()
        self._library.want(self._table.pages.read_bytes(message.page, 0, message.size), answer)

    def _obey(self) -> None:
        message, descriptors = self._control.receive_with_descriptors()
        if message is not None:
            assert isinstance(message, Connect), "the supervisor sends nothing else to a process that runs"
            client = int(message.name.removeprefix("client:"))
            if (old := self._clients.pop(client, None)) is not None:
                old.close()
            self._clients[client] = Channel.of_descriptor(descriptors[0])


def main(me: child.Child) -> None:
    process = GrammarProcess(me)
    me.metrics.clear()
    me.control.send(Ready())
    process.run()


if __name__ == "__main__":
    child.run("grammar", main)
