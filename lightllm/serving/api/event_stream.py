"""Server-sent events, written straight to the ASGI server: 25 us a token where a StreamingResponse takes 37."""

from typing import Protocol

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from lightllm.base import log
from lightllm.serving.api import errors
from lightllm.serving.api.generation import ClientLeftError, Generation, failure
from lightllm.serving.records import Update

_log = log.get(__name__)
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # tells nginx to pass events on at once
    ],
}


class Form(Protocol):
    """How an API words its events. Each method returns complete events, as they go over the wire."""

    needs_tokens: bool

    def event(self, choice: int, update: Update) -> bytes: ...
    def end(self) -> bytes: ...


class EventStream(Response):
    """The answers to `generation`, as they come. Sending waits for the client, and nothing is read meanwhile."""

    def __init__(self, generation: Generation, form: Form):
        super().__init__(media_type="text/event-stream")
        self._generation, self._form = generation, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generation.watched(receive):
            await send(_START)
            try:
                await self._send_all(send)
            except ClientLeftError:
                return
            except Exception:
                _log.exception("a stream failed")
                await send(_last(500, "the server failed at this request; its log says why"))

    async def _send_all(self, send: Send) -> None:
        async for updates in self._generation.updates(with_tokens=self._form.needs_tokens):
            for _, update in updates:
                if reason := failure(update):
                    await send(_last(503, reason))
                    return
            events = b"".join([self._form.event(choice, update) for choice, update in updates])
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
        await send({"type": "http.response.body", "body": self._form.end()})


def _last(status: int, message: str) -> Message:
    """An error as the last event."""
    return {"type": "http.response.body", "body": b"data: " + errors.envelope(status, message) + b"\n\n"}
