"""The process that turns token ids into text, finds stop strings and tells clients that there is something to read."""

import numpy as np

from lightllm.base.errors import Closed
from lightllm.base.messages import Connect, Progress, Ready, Stopped, TextReady, distinct, parse_references
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel, select_ready
from lightllm.serving.text.incremental import Decoders
from lightllm.serving.text.output_text import OutputText
from lightllm.serving.text.tokenizer import load_tokenizer

_NOBODY = np.empty((0, 2), dtype=np.uint32)


class Detokenizer:
    """The channels, and which requests have news that their clients were not told of."""

    def __init__(self, me: child.Child, output: OutputText):
        self._output = output
        self._control, self._status = me.control, me.status
        self._scheduler: Channel | None = me.channel("scheduler")
        self._records_per_client = me.start.shape.records
        self._clients: list[Channel | None] = [me.channel(f"client:{i}") for i in range(me.start.shape.clients)]
        self._news = [_NOBODY] * len(self._clients)

    def run(self) -> None:
        """Serves until the control channel closes."""
        while True:
            sources = [self._control] if self._scheduler is None else [self._control, self._scheduler]
            channels = [self._scheduler, *self._clients]
            blocked = [channel for channel in channels if channel is not None and channel.has_waiting]
            readable, writable = select_ready(sources, blocked, awake_s=self._status.awake_s)
            if self._control in readable:
                self._obey()
            if self._scheduler in readable or self._scheduler in writable:
                self._progress()
            for number in range(len(self._clients)):
                self._tell(number)

    def _obey(self) -> None:
        message, descriptors = self._control.receive_with_descriptors()
        if message is not None:
            assert isinstance(message, Connect), "the supervisor sends nothing else to a detokenizer that runs"
            number = int(message.name.removeprefix("client:"))
            self._disconnect(number)
            self._clients[number] = Channel.of_descriptor(descriptors[0])

    def _progress(self) -> None:
        """Takes in all that the scheduler has sent, so that a backlog is told of once."""
        assert self._scheduler is not None, "it has sent something"
        try:
            self._scheduler.flush()
            while (message := self._scheduler.receive()) is not None:
                assert isinstance(message, Progress), "the scheduler tells the detokenizer of progress only"
                if message.opened:  # so that their first tokens need not wait for decoders
                    self._output.open(parse_references(message.opened))
                news, stopped = self._output.advance(parse_references(message.progressed))
                self._output.release(parse_references(message.released))
                if stopped:
                    self._scheduler.send(Stopped(stopped))
                self._note(news)
        except Closed:
            self._scheduler.close()
            self._scheduler = None  # the supervisor knows, and ends this process or the whole

    def _note(self, news: np.ndarray) -> None:
        owners = news[:, 0] // self._records_per_client
        for number in set(owners.tolist()):
            mine = news[owners == number]
            waiting = self._news[number]
            self._news[number] = distinct(np.concatenate([waiting, mine])) if len(waiting) else mine

    def _tell(self, number: int) -> None:
        """One message to this client, once it has taken the one before."""
        channel = self._clients[number]
        if channel is None:
            return
        try:
            channel.flush()
            if len(self._news[number]) and not channel.has_waiting:
                channel.send(TextReady(self._news[number].tobytes()))
                self._news[number] = _NOBODY
        except Closed:
            self._disconnect(number)  # its successor comes with Connect

    def _disconnect(self, number: int) -> None:
        channel, self._clients[number], self._news[number] = self._clients[number], None, _NOBODY
        if channel is not None:
            channel.close()


def main(me: child.Child) -> None:
    tokenizer = load_tokenizer(me.start.config)
    output = OutputText(me.table, None if tokenizer is None else Decoders(tokenizer))
    me.control.send(Ready())
    Detokenizer(me, output).run()


if __name__ == "__main__":
    child.run("detokenizer", main)
