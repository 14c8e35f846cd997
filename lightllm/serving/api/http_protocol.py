"""uvicorn's HTTP protocol, with bounds that it lacks: how large the head of a request may be, and how slow."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lightllm.serving.api import errors

MOST_HEAD_BYTES = 64 << 10
HEAD_TIMEOUT_S = 60.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class BoundedHttp(HttpToolsProtocol):
    """A head is a request's line and headers. What goes wrong in it is answered here, before any route."""

    _head_bytes = 0
    _is_in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_ended()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the request's line and headers are longer than {MOST_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_ended()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not HTTP/1.1 as RFC 9112 has it")

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._is_in_head, self._head_bytes = True, 0
            message = f"the request's line and headers did not come within {HEAD_TIMEOUT_S:g} s"
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, 408, message)

    def _head_ended(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Answers and closes. Nothing of the request is in the answer."""
        self._head_ended()
        body = errors.encoded(status, message)
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body)) + body)
        self.transport.close()
