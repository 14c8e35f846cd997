"""One writer, several readers: fixed places in shared memory that are filled in turn.

Who waits is woken over a socket; the ring itself only says how much was written and read.
"""

import numpy as np

from lightllm.base.shared_memory import SharedMemory

_COUNTERS = 64  # int64 words: messages written, then messages read by each reader
_PLACES = 4


class Ring:
    """`written` counts all messages ever; message n lies in place n % _PLACES."""

    def __init__(self, memory: SharedMemory):
        self._counters = np.frombuffer(memory.view[: _COUNTERS * 8], dtype=np.int64)
        self._places = np.frombuffer(memory.view[_COUNTERS * 8 :], dtype=np.uint8).reshape(_PLACES, -1)

    @classmethod
    def create(cls, name: str, place_bytes: int) -> SharedMemory:
        """The segment for a ring whose messages have up to `place_bytes` bytes."""
        rounded = -(-place_bytes // 4096) * 4096
        return SharedMemory.create(name, _COUNTERS * 8 + _PLACES * rounded)

    @property
    def written(self) -> int:
        return int(self._counters[0])

    def place_to_write(self, readers: int) -> np.ndarray:
        """Where the next message goes. Call `publish` when it is there."""
        slowest = int(self._counters[1 : 1 + readers].min())
        assert self.written - slowest < _PLACES, "the plans in flight never exceed the ring's places"
        return self._places[self.written % _PLACES]

    def publish(self) -> None:
        self._counters[0] += 1

    def place_to_read(self, reader: int) -> np.ndarray | None:
        """The next message for this reader, or None. Call `consume` when it is copied out."""
        count = int(self._counters[1 + reader])
        return self._places[count % _PLACES] if count < self.written else None

    def consume(self, reader: int) -> None:
        self._counters[1 + reader] += 1
