"""What api processes and the archive say to one another, over a stream socket: 4 bytes of length, then msgpack.

A connection serves one question. The one that stores a response which is still being written stays, and if it breaks
the response has failed.
"""

import asyncio

import msgspec


class Frame(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all frames."""


class Put(Frame, frozen=True):
    """Store a response: answered with Done. If it `is_open`, Append and End follow; `lost`: it, had it failed."""

    id: str
    caller: int
    response: bytes
    items: bytes
    events: list[bytes]
    is_open: bool = False
    lost: bytes = b""
    labels: dict[str, str] = {}


class Append(Frame, frozen=True):
    """More events of an open response."""

    events: list[bytes]


class End(Frame, frozen=True):
    """The last of an open response: answered with Done."""

    response: bytes
    events: list[bytes]


class Get(Frame, frozen=True):
    """Answered with Stored or Missing."""

    id: str
    caller: int


class Follow(Frame, frozen=True):
    """Its events from the number `start` on: answered with Events until it has ended, or with Missing."""

    id: str
    caller: int
    start: int


class Cancel(Frame, frozen=True):
    """Make it end: answered with Stored once it has, or with Missing."""

    id: str
    caller: int


class Delete(Frame, frozen=True):
    """Answered with Done or Missing."""

    id: str
    caller: int


class Relabel(Frame, frozen=True):
    """Put another in its place, with other labels, where it has ended: answered with Done or Missing."""

    id: str
    caller: int
    response: bytes
    labels: dict[str, str]


class Find(Frame, frozen=True):
    """Those of a caller's that have ended and have these labels: answered with Found, or Missing if `after` is."""

    caller: int
    labels: dict[str, str]
    after: str | None
    limit: int
    newest_first: bool


class Found(Frame, frozen=True):
    responses: list[bytes]
    has_more: bool


class Stored(Frame, frozen=True):
    response: bytes
    items: bytes


class Events(Frame, frozen=True):
    events: list[bytes]


class Done(Frame, frozen=True):
    pass


class Missing(Frame, frozen=True):
    """There is no such response, or it is somebody else's."""


class Stop(Frame, frozen=True):
    """To the writer of an open response: end it."""


AnyFrame = (
    Put | Append | End | Get | Follow | Cancel | Delete | Relabel | Find | Found | Stored | Events | Done | Missing
    | Stop
)  # fmt: skip
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AnyFrame).decode


def framed(frame: Frame) -> bytes:
    data = _encode(frame)
    return len(data).to_bytes(4, "little") + data


async def receive(reader: asyncio.StreamReader) -> AnyFrame | None:
    """The next frame, or None where the other side has closed."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "little")
        return _decode(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
