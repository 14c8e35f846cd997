"""An api process's way to the stored responses."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from starlette.types import Message

from lightllm.base.errors import RequestError
from lightllm.serving.archive.frames import (
    AnyFrame,
    Append,
    Cancel,
    Delete,
    End,
    Events,
    Find,
    Follow,
    Found,
    Frame,
    Get,
    Missing,
    Put,
    Relabel,
    Stop,
    Stored,
    framed,
    receive,
)


class ArchiveClient:
    """Opens a connection for each question. All raise RequestError 503 where the archive cannot be reached."""

    def __init__(self, address: bytes):
        self._address = address

    async def put(self, put: Put) -> None:
        """Stores a response that has ended."""
        await self._asked(put)

    async def get(self, id: str, caller: int) -> Stored | None:
        answer = await self._asked(Get(id, caller))
        return answer if isinstance(answer, Stored) else None

    async def cancel(self, id: str, caller: int) -> Stored | None:
        """Waits until it has ended."""
        answer = await self._asked(Cancel(id, caller))
        return answer if isinstance(answer, Stored) else None

    async def delete(self, id: str, caller: int) -> bool:
        """Whether there was such a response."""
        return not isinstance(await self._asked(Delete(id, caller)), Missing)

    async def find(self, find: Find) -> Found | None:
        """None: there is no such response as `after` names."""
        answer = await self._asked(find)
        return answer if isinstance(answer, Found) else None

    async def relabel(self, relabel: Relabel) -> bool:
        """Whether there was such a response."""
        return not isinstance(await self._asked(relabel), Missing)

    async def follow(self, id: str, caller: int, start: int) -> AsyncIterator[bytes] | None:
        """Its events from number `start` on, as they come, until it has ended. None: there is no such response."""
        connection = await self._opened(Follow(id, caller, start))
        first = await connection.received()
        if isinstance(first, Missing):
            connection.close()
            return None
        return _events(connection, first)

    async def open(self, put: Put) -> "OpenResponse":
        """Stores a response that is still being written."""
        connection = await self._opened(put)
        await connection.received()
        return OpenResponse(connection)

    async def _asked(self, question: Frame) -> AnyFrame:
        connection = await self._opened(question)
        try:
            return await connection.received()
        finally:
            connection.close()

    async def _opened(self, question: Frame) -> "_Connection":
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(self._address)  # at once: the other side need not have accepted it
            connection = _Connection(*await asyncio.open_unix_connection(sock=end))
        except OSError as error:
            end.close()
            raise _unreachable() from error
        await connection.send(question)
        return connection


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self._writer = reader, writer

    async def send(self, frame: Frame) -> None:
        try:
            self._writer.write(framed(frame))
            await self._writer.drain()
        except ConnectionError as error:
            raise _unreachable() from error

    async def received(self) -> AnyFrame:
        if (frame := await receive(self.reader)) is None:
            raise _unreachable()
        return frame

    def close(self) -> None:
        self._writer.close()


class OpenResponse:
    """A response that its writer is still at."""

    def __init__(self, connection: _Connection):
        self._connection = connection
        self._is_done = asyncio.Event()
        self._stop = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (frame := await receive(self._connection.reader)) is not None:
            (self._stop if isinstance(frame, Stop) else self._is_done).set()
        self._stop.set()  # nobody would read the rest
        self._is_done.set()

    async def append(self, events: list[bytes]) -> None:
        await self._connection.send(Append(events))

    async def end(self, response: bytes, events: list[bytes]) -> None:
        """Stores the rest; whoever asks from now on finds it ended."""
        await self._connection.send(End(response, events))
        await self._is_done.wait()

    async def receive(self) -> Message:
        """For who watches for clients that leave: an order to stop is such a client."""
        await self._stop.wait()
        return {"type": "http.disconnect"}

    async def close(self) -> None:
        self._listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._listener
        self._connection.close()


async def _events(connection: _Connection, first: AnyFrame) -> AsyncIterator[bytes]:
    try:
        frame: AnyFrame | None = first
        while isinstance(frame, Events):
            if frame.events:
                yield b"".join(frame.events)
            frame = await receive(connection.reader)
    finally:
        connection.close()


def _unreachable() -> RequestError:
    return RequestError("stored responses cannot be reached; try again later", status=503)
