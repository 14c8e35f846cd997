"""The requests of one HTTP request, awaited together: several prompts, several samples of each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
from starlette.types import Receive

from lightllm.base.errors import RequestError
from lightllm.base.request import FinishReason, SamplingParams, Terms
from lightllm.serving.client import EngineClient
from lightllm.serving.records import Request, Update, joined

Cut = Callable[[Update], Update]
Updates = list[tuple[int, Update]]  # choice, what is new of it


class ClientLeftError(Exception):
    """The client closed its connection; nobody waits for an answer."""


class UnfinishedError(RequestError):
    """The engine took the request and could not finish it."""


class Generation:
    """Choice i is the i-th request submitted.

    Nothing is queued here: what is new waits in shared memory until a handler, woken by news, has sent what it read
    before. So a client that stops reading costs no memory of this process and no time of others.
    """

    def __init__(self, client: EngineClient, terms: Terms, *, until_end: bool, cuts: Sequence[Cut] = ()):
        """`until_end`: there is news only when a request has ended, which then is read as a whole.

        `cuts`, one for each choice, are given its updates with their tokens and may end it before the engine does.
        """
        self._client, self._terms, self._until_end, self._cuts = client, terms, until_end, cuts
        self._news = asyncio.Event()
        self._client_left = False
        self.requests: list[Request] = []

    def submit(self, prompt: Sequence[int] | np.ndarray, params: SamplingParams, *, wants_vector: bool = False) -> None:
        """Adds a choice for each sample. Raises RequestError, after which nothing is left in the engine."""
        try:
            self.requests += self._client.submit(
                prompt, params, self._note, terms=self._terms, wants_vector=wants_vector
            )
        except Exception:
            self.release()
            raise

    def _note(self, request: Request) -> None:
        if self._is_due(request):
            self._news.set()

    def _is_due(self, request: Request) -> bool:
        # The end may be read before the news of it comes.
        return request.has_news and not request.is_finished and (not self._until_end or self._client.has_ended(request))

    async def updates(self, *, with_tokens: bool) -> AsyncIterator[Updates]:
        """(choice, what is new of it), as they come, until all have ended. Raises ClientLeftError."""
        num_open = len(self.requests)
        while num_open:
            await self._news.wait()
            self._news.clear()
            if self._client_left:
                raise ClientLeftError
            updates = [
                (choice, self._read(choice, request, with_tokens=with_tokens))
                for choice, request in enumerate(self.requests)
                if self._is_due(request)
            ]
            num_open -= sum(update.finish_reason is not None for _, update in updates)
            yield updates

    def _read(self, choice: int, request: Request, *, with_tokens: bool) -> Update:
        update = self._client.read(request, with_tokens=with_tokens)
        if self._cuts and (update := self._cuts[choice](update)).finish_reason is not None:
            self._client.end(request, update)
        return update

    async def whole(self, receive: Receive, *, with_tokens: bool) -> list[Update]:
        """The complete answers by choice. Raises ClientLeftError, UnfinishedError."""
        pieces: list[list[Update]] = [[] for _ in self.requests]
        async with self.watched(receive):
            async for updates in self.updates(with_tokens=with_tokens):
                if error := first_failure(updates):
                    raise error
                for choice, update in updates:
                    pieces[choice].append(update)
        answers = [joined(updates) for updates in pieces]
        if error := nothing_in_time(list(enumerate(answers))):
            raise error
        return answers

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """Ends the requests when the client leaves, and at the latest when the block does."""
        watcher = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            watcher.cancel()
            self.release()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._client_left = True
        self.release()
        self._news.set()

    def release(self) -> None:
        for request in self.requests:
            self._client.release(request)


def first_failure(updates: Updates) -> UnfinishedError | None:
    """Why none of the requests has an answer, if one of these updates says so."""
    for _, update in updates:
        match update.finish_reason:
            case FinishReason.REFUSED:
                return UnfinishedError(update.error or "refused", status=429, retry_after_s=update.retry_after_s)
            case FinishReason.ERROR:
                return UnfinishedError(update.error or "the engine failed", status=503)
            case FinishReason.GRAMMAR:
                return UnfinishedError(update.error or "the grammar allows nothing")
            case FinishReason.ABORT:
                return UnfinishedError("the server ended this request before its end", status=503)
            case _:
                pass
    return None


def nothing_in_time(updates: Updates) -> UnfinishedError | None:
    """Why there is no answer, where none of these requests had a token before its time was up."""
    for _, update in updates:
        if update.finish_reason is not FinishReason.TIMEOUT or update.num_tokens:
            return None
    return UnfinishedError(updates[0][1].error or "its time was up", status=503)
