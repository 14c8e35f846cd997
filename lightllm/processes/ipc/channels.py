"""Sockets between processes: whole messages in order, over unix SEQPACKET pairs that the supervisor makes.

A send never waits for a slow reader: what the socket does not take is kept and sent at the next `flush`.
"""

import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from lightllm.base import messages
from lightllm.base.errors import Closed

MAX_BYTES = 1 << 18  # of one message
MAX_DESCRIPTORS = 253  # the kernel's limit for one message
_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(MAX_DESCRIPTORS * array("i").itemsize)
_BUFFER_BYTES = 4 << 20
Found = TypeVar("Found", bound=Sequence[Any])
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(messages.AnyMessage).decode


class Channel:
    """One end of a pair. Not blocking; `fileno` is for select and event loops."""

    def __init__(self, end: socket.socket):
        self._socket = end
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque()
        # Received into again and again: a new buffer of this size for each message costs more than the message.
        self._received = memoryview(bytearray(MAX_BYTES))

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Two connected ends, to be handed to two processes."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        return ends

    @classmethod
    def of_descriptor(cls, descriptor: int) -> "Channel":
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait for the socket to take them."""
        return bool(self._waiting)

    def send(self, message: messages.Message, descriptors: list[int] | None = None) -> None:
        """Sends or keeps a message; waits for the reader if descriptors go with it. Raises Closed."""
        data = _encode(message)
        assert len(data) <= MAX_BYTES, "messages carry references, not data"
        if descriptors:
            self._send_with_descriptors(data, descriptors)
        else:
            self._waiting.append(data)
            self.flush()

    def _send_with_descriptors(self, data: bytes, descriptors: list[int]) -> None:
        self._socket.setblocking(True)
        try:
            while self._waiting:
                self._socket.send(self._waiting[0])
                self._waiting.popleft()
            socket.send_fds(self._socket, [data], descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        finally:
            self._socket.setblocking(False)

    def flush(self) -> None:
        """Sends what waits, as far as the socket takes it. Raises Closed."""
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError) as error:
                raise Closed from error
            self._waiting.popleft()

    def receive(self) -> messages.AnyMessage | None:
        """The next message, or None if there is none yet. Raises Closed."""
        try:
            size = self._socket.recv_into(self._received)
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            raise Closed from error
        if not size:
            raise Closed
        return _decode(self._received[:size])

    def receive_with_descriptors(self) -> tuple[messages.AnyMessage | None, list[int]]:
        """As `receive`, with the descriptors that came along."""
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into([self._received], _ROOM_FOR_DESCRIPTORS)
        except BlockingIOError:
            return None, []
        except ConnectionResetError as error:
            raise Closed from error
        if not size:
            raise Closed
        descriptors = array("i", b"".join(data for _, _, data in ancillary)).tolist()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return _decode(self._received[:size]), descriptors

    def close(self) -> None:
        self._socket.close()


def select_ready(
    read: Sequence[Channel], write: Sequence[Channel], *, timeout_s: float | None = None, awake_s: float = 0.0
) -> tuple[list[Channel], list[Channel]]:
    """Waits until one can be read or written. Returns those that can be read, and those that can be written."""
    found = _wait(lambda seconds: select.select(read, write, [], seconds), timeout_s, awake_s)
    return found[0], found[1]


def wait_for(
    read: Iterable[Channel], write: Iterable[Channel] = (), *, timeout_s: float | None = None, awake_s: float = 0.0
) -> set[int]:
    """Waits as `select_ready`, to the millisecond. Returns the descriptors of those that can be read or written.

    For a user's process, where descriptors may have any number: select takes those below 1,024 only.
    """
    wanted: dict[int, int] = {channel.fileno(): select.POLLIN for channel in read}
    for channel in write:
        wanted[channel.fileno()] = wanted.get(channel.fileno(), 0) | select.POLLOUT
    poll = select.poll()
    for descriptor, events in wanted.items():
        poll.register(descriptor, events)
    ready = _wait(lambda seconds: poll.poll(None if seconds is None else 1e3 * seconds), timeout_s, awake_s)
    return {descriptor for descriptor, _ in ready}


def _wait(look: Callable[[float | None], Found], timeout_s: float | None, awake_s: float) -> Found:
    """What `look` finds, which sleeps for so many seconds (None: for ever) if there is nothing.

    For the first `awake_s` it is asked again and again not to sleep, so that nobody has to wake this process.
    """
    awake_s = awake_s if timeout_s is None else min(awake_s, timeout_s)
    if awake_s:
        until = time.monotonic() + awake_s
        while time.monotonic() < until:
            if any(found := look(0.0)):
                return found
    return look(None if timeout_s is None else timeout_s - awake_s)
