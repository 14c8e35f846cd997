"""Server-sent events, written straight to the ASGI server: 25 us a token where a StreamingResponse takes 37."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from fastapi import Response
from starlette.types import Receive, Scope, Send

from lightllm.base import log
from lightllm.serving.api import errors
from lightllm.serving.api.generation import ClientLeftError, Generation, Updates, first_failure, nothing_in_time
from lightllm.serving.records import Update

_log = log.get(__name__)
START = {
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
    def failure(self, status: int, message: str) -> bytes:
        """The last event of a stream that cannot go on."""
        ...


class EventStream(Response):
    """The answers to `generation`, as they come. Sending waits for the client, and nothing is read meanwhile.

    The status is not sent before there is something to tell: a request that waits in vain is 429 or 503.
    """

    def __init__(self, generation: Generation, form: Form, *, before_end: Callable[[], Awaitable[None]] | None = None):
        """`before_end` is awaited between the last answer and the form's end."""
        super().__init__(media_type="text/event-stream")
        self._generation, self._form, self._before_end = generation, form, before_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._generation.watched(receive):
            answers = self._generation.updates(with_tokens=self._form.needs_tokens)
            try:
                first = await anext(answers)
                while nothing_in_time(first) and len(first) < len(self._generation.requests):
                    first += await anext(answers)
                if error := nothing_in_time(first) or first_failure(first):
                    refused = errors.response(error.status, str(error), retry_after_s=error.retry_after_s, scope=scope)
                    await refused(scope, receive, send)
                else:
                    await send(START)
                    await self._send_all(first, answers, send)
            except ClientLeftError:
                return

    async def _send_all(self, first: Updates, others: AsyncIterator[Updates], send: Send) -> None:
        try:
            await self._send_events(first, send)
            async for updates in others:
                if error := first_failure(updates):
                    await self._send_failure(error.status, str(error), send)
                    return
                await self._send_events(updates, send)
            if self._before_end is not None:
                await self._before_end()
            await send({"type": "http.response.body", "body": self._form.end()})
        except ClientLeftError:
            raise
        except Exception:
            _log.exception("a stream failed")
            await self._send_failure(500, "the server failed at this request; its log says why", send)

    async def _send_events(self, updates: Updates, send: Send) -> None:
        events = b"".join([self._form.event(choice, update) for choice, update in updates])
        if events:
            await send({"type": "http.response.body", "body": events, "more_body": True})

    async def _send_failure(self, status: int, message: str, send: Send) -> None:
        await send({"type": "http.response.body", "body": self._form.failure(status, message)})
