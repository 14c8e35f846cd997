import numpy as np
import pytest

from lightllm.base.ring import Ring
from lightllm.base.shared_memory import SharedMemory


def test_each_reader_gets_every_message_in_order():
    memory = Ring.create("test", 100)
    writer, readers = Ring(memory), [Ring(SharedMemory(memory.fd)) for _ in range(3)]
    got: list[list[int]] = [[], [], []]
    rng = np.random.default_rng(0)
    sent = 0
    while min(len(numbers) for numbers in got) < 200:
        if sent < 200 and sent - min(len(numbers) for numbers in got) < 4:
            writer.place_to_write(readers=3)[:4].view(np.int32)[0] = sent
            writer.publish()
            sent += 1
        number = int(rng.integers(3))
        if (place := readers[number].place_to_read(number)) is not None:
            got[number].append(int(place[:4].view(np.int32)[0]))
            readers[number].consume(number)
    assert got == [list(range(200))] * 3


def test_a_full_ring_is_a_mistake_of_the_writer():
    ring = Ring(Ring.create("test", 10))
    for _ in range(4):
        ring.place_to_write(readers=1)
        ring.publish()
    with pytest.raises(AssertionError, match="never exceed"):
        ring.place_to_write(readers=1)
