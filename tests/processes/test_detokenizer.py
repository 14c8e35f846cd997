"""The detokenizer between a scheduler and clients that are only sockets: who is told what, and when."""

import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lightllm.base.errors import Closed
from lightllm.base.messages import Connect, Progress, Stopped, TextReady, parse_references
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options
from lightllm.processes.detokenizer import Detokenizer
from lightllm.processes.ipc.channels import Channel
from lightllm.serving.text.incremental import Decoders
from lightllm.serving.text.output_text import OutputText
from tests.serving.text.table_for_tests import Writers
from tests.serving.text.tokenizers_for_tests import byte_level

RECORDS = 4
NAMES = ("control", "scheduler", "client:0", "client:1")


class Engine:
    """A detokenizer on a thread; `channels` are what the others would hold."""

    def __init__(self):
        self.writers = Writers(RECORDS, clients=2)
        ends = {name: Channel.pair() for name in NAMES}
        ends["client:0"][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # full after a few messages
        self.channels = {name: Channel(theirs) for name, (_, theirs) in ends.items()}
        self.its_channels = {name: Channel(ours) for name, (ours, _) in ends.items()}
        me = SimpleNamespace(
            control=self.its_channels["control"],
            status=SimpleNamespace(awake_s=0.0),
            start=SimpleNamespace(shape=self.writers.shape),
            channel=self.its_channels.__getitem__,
        )
        self.detokenizer = Detokenizer(me, OutputText(self.writers.table, Decoders(byte_level())))
        self.thread = threading.Thread(target=self._run, args=[self.detokenizer])
        self.thread.start()

    def _run(self, detokenizer: Detokenizer) -> None:
        with pytest.raises(Closed):
            detokenizer.run()

    def tell(self, progressed, released=(), opened=()) -> None:
        message = Progress(*(np.array(some, dtype=np.uint32).tobytes() for some in (opened, progressed, released)))
        self.channels["scheduler"].send(message)

    def hear(self, name: str):
        deadline = time.monotonic() + 5
        while (message := self.channels[name].receive()) is None:
            assert time.monotonic() < deadline, f"{name} was told nothing"
            time.sleep(0.001)
        return message

    def told(self, name: str) -> list[tuple[int, int]]:
        message = self.hear(name)
        assert isinstance(message, TextReady)
        return sorted((index, generation) for index, generation in parse_references(message.references).tolist())


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    for channel in engine.channels.values():
        channel.close()
    engine.thread.join(5)
    assert not engine.thread.is_alive()
    for channel in (*engine.its_channels.values(), *engine.detokenizer._clients):
        if channel is not None:
            channel.close()


def test_each_client_is_told_of_its_own_requests_once_a_step(engine):
    first, second = engine.writers.submit(0, Options()), engine.writers.submit(3, Options())
    other = engine.writers.submit(RECORDS, Options())
    for index in (0, 3, RECORDS):
        engine.writers.emit(index, [40, 41])
    engine.tell([first, second, other, first])
    assert engine.told("client:0") == [first, second]
    assert engine.told("client:1") == [other]
    assert engine.writers.text(3) == byte_level().decode([40, 41])


def test_a_request_that_came_has_a_decoder_and_no_news(engine):
    record, reference = engine.writers.table.records[0], engine.writers.submit(0, Options())
    engine.tell([], opened=[reference])
    deadline = time.monotonic() + 5
    while record["text_generation"] != reference[1]:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    engine.writers.emit(0, [40])
    engine.tell([reference])
    assert engine.told("client:0") == [reference]
    assert engine.channels["client:0"].receive() is None
    assert engine.writers.text(0) == byte_level().decode([40])


def test_the_scheduler_is_told_of_stop_strings(engine):
    reference = engine.writers.submit(1, Options(stop=[byte_level().decode([50])]))
    engine.writers.emit(1, [40, 50, 41])
    engine.tell([reference])
    assert engine.told("client:0") == [reference]
    assert engine.hear("scheduler") == Stopped([reference])
    assert engine.writers.text(1) == byte_level().decode([40])
    assert engine.writers.table.records["text_finish"][1] == FinishReason.STOP


def test_a_client_that_does_not_read_is_told_the_rest_at_once_later(engine):
    slow, quick = engine.writers.submit(0, Options()), engine.writers.submit(RECORDS, Options())
    for _ in range(300):
        engine.writers.emit(0, [40])
        engine.writers.emit(RECORDS, [40])
        engine.tell([slow, quick])
        engine.told("client:1")
    messages = 0
    while engine.channels["client:0"].receive() is not None:
        messages += 1
        time.sleep(0.0001)
    assert 0 < messages < 100
    assert engine.writers.table.records["num_visible"][0] == 300


def test_released_requests_free_their_text(engine):
    for _ in range(30):  # more than there are pages
        reference = engine.writers.submit(0, Options())
        engine.writers.emit(0, [40] * 1500, FinishReason.LENGTH)
        engine.tell([reference], released=[reference])
        assert engine.told("client:0") == [reference]
        assert engine.writers.table.records["text_finish"][0] == FinishReason.LENGTH


def test_a_client_that_is_gone_is_replaced(engine):
    engine.channels["client:0"].close()
    reference = engine.writers.submit(0, Options())
    engine.writers.emit(0, [40])
    engine.tell([reference])
    ours, theirs = Channel.pair()
    with theirs:
        engine.channels["control"].send(Connect("client:0"), [theirs.fileno()])
    engine.channels["client:0"] = Channel(ours)
    time.sleep(0.05)
    engine.writers.emit(0, [41])
    engine.tell([reference])
    assert engine.told("client:0") == [reference]


def test_without_a_scheduler_it_waits_for_the_supervisors_word(engine):
    engine.channels["scheduler"].close()
    engine.thread.join(0.2)
    assert engine.thread.is_alive()
