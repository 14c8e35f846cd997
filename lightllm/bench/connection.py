"""A small HTTP client for streams: what arrives is given its time before anything else is done with it."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import SplitResult

import httptools

OnLine = Callable[[float, bytes], None]  # time.perf_counter(), a line of the body without its end
_LONGEST_ERROR = 2000  # bytes


class HttpError(Exception):
    """The server answered something else than 200, or not at all."""


class Connection(asyncio.Protocol):
    """One request at a time, again and again over the same connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._on_line: OnLine | None = None
        self._now = 0.0
        self._rest = b""
        self._error = b""
        self._ends_with_connection = False  # an answer has begun that says nothing of its length
        self.is_closed = False

    async def post(self, head: bytes, body: bytes, on_line: OnLine) -> None:
        """Returns when the answer is complete. Raises HttpError."""
        assert self._transport is not None, "connected"
        self._done = asyncio.get_running_loop().create_future()
        self._on_line, self._rest, self._error = on_line, b"", b""
        self._transport.writelines([head % len(body), body])
        await self._done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if exc is None and self._ends_with_connection:
            self.on_message_complete()
        self._fail(f"the server closed the connection: {exc or 'before the answer was complete'}")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._ends_with_connection = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._error = (self._error + body)[:_LONGEST_ERROR]
            return
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line:
                self._take(line)

    def on_message_complete(self) -> None:
        self._ends_with_connection = False
        if not self._parser.should_keep_alive():
            self.is_closed = True
        status = self._parser.get_status_code()
        if status != 200:
            self._fail(f"{status}: {self._error.decode(errors='replace')}")
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _take(self, line: bytes) -> None:
        assert self._on_line is not None, "a body follows a request"
        try:
            self._on_line(self._now, line)
        except Exception as error:  # noqa: BLE001 (it belongs to the request, not to the event loop)
            self.is_closed = True  # what is left of the answer is of no interest
            self._fail(f"{type(error).__name__}: {error}")
            self.close()

    def _fail(self, reason: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(HttpError(reason))


class Connections:
    """Connections to one server that are kept and used again."""

    def __init__(self, url: SplitResult, path: str, headers: Mapping[str, str]):
        assert url.hostname is not None, "checked with the options"
        self._host, self._tls = url.hostname, ssl.create_default_context() if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        lines = {"Host": url.netloc, "Content-Type": "application/json", "Accept": "text/event-stream", **headers}
        named = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).replace("%", "%%")
        self._head = f"POST {url.path.rstrip('/')}{path} HTTP/1.1\r\n{named}Content-Length: %d\r\n\r\n".encode()
        self._idle: list[Connection] = []

    async def post(self, body: bytes, on_line: OnLine) -> None:
        """Raises HttpError."""
        connection = await self._connection()
        try:
            await connection.post(self._head, body, on_line)
        finally:
            if not connection.is_closed:
                self._idle.append(connection)

    async def _connection(self) -> Connection:
        while self._idle:
            if not (connection := self._idle.pop()).is_closed:
                return connection
        loop = asyncio.get_running_loop()
        try:
            return (await loop.create_connection(Connection, self._host, self._port, ssl=self._tls))[1]
        except OSError as error:
            raise HttpError(f"no connection to {self._host}:{self._port}: {error}") from None

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
