"""How a response is written: as a whole, as a stream, or in the background. What is to be kept is stored at its end."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Response
from starlette.types import Receive, Scope, Send

from lightllm.base import log
from lightllm.serving.api import errors
from lightllm.serving.api.event_stream import START
from lightllm.serving.api.generation import ClientLeftError, Generation, UnfinishedError, first_failure, nothing_in_time
from lightllm.serving.api.openai import json
from lightllm.serving.api.openai_chat import Chat
from lightllm.serving.api.responses.answer import Answer
from lightllm.serving.api.responses.items import Item
from lightllm.serving.archive.client import ArchiveClient, OpenResponse
from lightllm.serving.archive.frames import Put
from lightllm.serving.records import Update

_log = log.get(__name__)


class Writing:
    """One response: who asked, what it answers, and what becomes of it. `items`: the whole conversation."""

    def __init__(self, answer: Answer, chat: Chat, archive: ArchiveClient | None, caller: int, items: list[Item]):
        """Without an archive nothing is kept."""
        self.answer, self._chat = answer, chat
        self._archive, self._caller, self._items = archive, caller, items

    async def whole(self, receive: Receive) -> bytes:
        """The response, when it has ended. Raises ClientLeftError, RequestError."""
        generation = self._chat.generation
        [update] = await generation.whole(receive, with_tokens=self._chat.needs_tokens)
        answer = self.answer
        events = [*answer.begin(), *answer.take(generation.requests[0], update), *answer.end()]
        await self.keep(events)
        return json(answer.response)

    async def keep(self, events: list[bytes]) -> None:
        """Stores a response that has ended, if it is to be kept."""
        if self._archive is not None:
            await self._archive.put(self._put(events))

    async def begin_aside(self) -> asyncio.Task[None]:
        """Goes on in the background; returns when others can find the response. Raises RequestError."""
        assert self._archive is not None, "what is written in the background is kept"
        try:
            kept = await self._archive.open(self._put(self.answer.begin(), is_open=True))
        except BaseException:
            self._chat.generation.release()
            raise
        return asyncio.create_task(self._write_aside(kept))

    async def _write_aside(self, kept: OpenResponse) -> None:
        answer, generation = self.answer, self._chat.generation
        try:
            last = await self._last_events(kept)
        except ClientLeftError:
            last = answer.cancel()
        except UnfinishedError as error:
            last = answer.fail(_code(error.status), str(error))
        except Exception:
            _log.exception("a response in the background failed")
            last = answer.fail("server_error", "the server failed at this request; its log says why")
        finally:
            generation.release()
        await kept.end(json(answer.response), last)
        await kept.close()

    async def _last_events(self, kept: OpenResponse) -> list[bytes]:
        """Writes all but the last events, which it returns."""
        generation = self._chat.generation
        async with generation.watched(kept.receive):
            async for updates in generation.updates(with_tokens=self._chat.needs_tokens):
                if error := first_failure(updates) or (nothing_in_time(updates) if updates else None):
                    raise error
                events = [event for _, update in updates for event in self.answer.take(generation.requests[0], update)]
                await kept.append(events)
        return self.answer.end()

    def _put(self, events: list[bytes], *, is_open: bool = False) -> Put:
        response = self.answer.response
        lost = b""
        if is_open:
            error = b'{"code":"server_error","message":"the process that wrote this response has ended"}'
            lost = json(response).replace(b'"error":null', b'"error":' + error, 1)
            lost = lost.replace(b'"status":"in_progress"', b'"status":"failed"', 1)
        return Put(response.id, self._caller, json(response), json(self._items), events, is_open, lost)


class ResponseForm:
    """The stream of a response, for EventStream. What was sent is kept until the end, where it is stored."""

    def __init__(self, writing: Writing, generation: Generation, *, needs_tokens: bool):
        self.needs_tokens = needs_tokens
        self._writing, self._generation = writing, generation
        self._events: list[bytes] = []

    def event(self, choice: int, update: Update) -> bytes:
        answer = self._writing.answer
        events = [] if self._events else answer.begin()
        events += answer.take(self._generation.requests[choice], update)
        self._events += events
        return b"".join(events)

    async def before_end(self) -> None:
        """Who has read the end may ask for the response at once, from any api process."""
        self._events += self._writing.answer.end()
        await self._writing.keep(self._events)

    def end(self) -> bytes:
        return self._events[-1]

    def failure(self, status: int, message: str) -> bytes:
        return b"".join(self._writing.answer.fail(_code(status), message))


def _code(status: int) -> str:
    """Why a response failed, in the words of the API."""
    return {400: "invalid_prompt", 429: "rate_limit_exceeded"}.get(status, "server_error")


class FollowedStream(Response):
    """The events of a stored response, those that are still to come too."""

    def __init__(self, events: AsyncIterator[bytes]):
        super().__init__(media_type="text/event-stream")
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        await send(START)
        try:
            async for events in self._events:
                await send({"type": "http.response.body", "body": events, "more_body": True})
        except Exception:
            _log.exception("a stream failed")
            await send({"type": "http.response.body", "body": errors.event(500, "the server failed; its log says why")})
        else:
            await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
