import os
import socket
import tempfile

import pytest

from lightllm.base.errors import Closed
from lightllm.base.messages import Connect, Progress, TextReady
from lightllm.processes.ipc.channels import Channel, select_ready, wait_for


@pytest.fixture
def pair():
    first, second = (Channel(end) for end in Channel.pair())
    yield first, second
    first.close()
    second.close()


def test_messages_arrive_whole_and_in_order(pair):
    for i in range(50):
        pair[0].send(TextReady(bytes([i]) * (i * 1000)))
    for i in range(50):
        assert pair[1].receive() == TextReady(bytes([i]) * (i * 1000))
    assert pair[1].receive() is None


def test_a_reader_that_does_not_read_delays_nobody_and_loses_nothing(pair):
    sent = 0
    while not pair[0].has_waiting:
        pair[0].send(Progress(progressed=sent.to_bytes(4, "big") * 1000))
        sent += 1
    pair[0].send(Progress(progressed=sent.to_bytes(4, "big") * 1000))
    received = []
    while len(received) <= sent:
        message = pair[1].receive()
        if message is None:
            pair[0].flush()
        else:
            received.append(message.progressed[:4])
    assert received == [i.to_bytes(4, "big") for i in range(sent + 1)]
    assert not pair[0].has_waiting


@pytest.mark.parametrize("awake_s", [0.0, 0.01])
def test_news_is_found_awake_or_asleep(pair, awake_s):
    assert select_ready([pair[1]], [], timeout_s=0, awake_s=awake_s) == ([], [])
    assert wait_for([pair[1]], timeout_s=0, awake_s=awake_s) == set()
    assert select_ready([pair[1]], [pair[1]], awake_s=awake_s) == ([], [pair[1]])
    pair[0].send(TextReady(b"news"))
    assert select_ready([pair[1]], [], awake_s=awake_s) == ([pair[1]], [])
    assert wait_for([pair[1]], awake_s=awake_s) == {pair[1].fileno()}


def test_descriptors_travel_after_what_waits_and_are_not_inherited(pair):
    with tempfile.TemporaryFile() as file:
        pair[0].send(TextReady(b"before"))
        pair[0].send(Connect("x"), [file.fileno(), file.fileno()])
    assert pair[1].receive() == TextReady(b"before")
    message, descriptors = pair[1].receive_with_descriptors()
    assert message == Connect("x")
    for descriptor in descriptors:
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, b"the file is still open")
        os.close(descriptor)


def test_the_end_of_the_other_side_is_seen_on_both_ways():
    ends = Channel.pair()
    channel = Channel(ends[0])
    ends[1].close()
    with pytest.raises(Closed):
        channel.receive()
    with pytest.raises(Closed):
        channel.send(TextReady(b""))
    with pytest.raises(Closed), socket.socket() as other:
        channel.send(TextReady(b""), [other.fileno()])
    channel.close()


def test_what_was_sent_before_the_end_is_received(pair):
    pair[0].send(TextReady(b"last words"))
    pair[0].close()
    assert pair[1].receive() == TextReady(b"last words")
    with pytest.raises(Closed):
        pair[1].receive()
