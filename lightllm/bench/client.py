"""A process that sends requests and reads their streams: `python -m lightllm.bench.client`.

Its work comes as one line of JSON on standard input, then the time to start, when it has said that it is ready; where
the input ends before the work does, the work ends there.
Messages go out as lines of JSON. It does nothing else, so that what it measures is the server.
"""

import asyncio
import contextlib
import gc
import os
import sys
import time
from urllib.parse import urlsplit

import msgspec
import uvloop

from lightllm.bench.backends import BACKENDS, Backend, Event
from lightllm.bench.connection import Connections, HttpError
from lightllm.bench.datasets import Conversation
from lightllm.bench.outcome import Message, Outcome, Progress, Ready, Report, Work

_TELL_EVERY_S = 0.2
_LAG_EVERY_S = 0.01


class Client:
    """Runs one Work."""

    def __init__(self, work: Work):
        self._work = work
        self._connections = Connections(urlsplit(work.url), work.path, work.headers)
        self._places = asyncio.Semaphore(work.max_concurrency) if work.max_concurrency else contextlib.nullcontext()
        self._outcomes: list[Outcome] = []
        self._running = self._done = self._failed = self._tokens = 0

    async def run(self, start: float) -> Report:
        """`start`: time.perf_counter() to begin at. When standard input ends, what runs is given up."""
        await asyncio.sleep(max(0.0, start - time.perf_counter()))
        lags: list[float] = []
        beside = [asyncio.create_task(self._tell()), asyncio.create_task(_measure_lag(lags))]
        cpu, began = time.process_time(), time.perf_counter()
        sending = asyncio.create_task(self._send(start))
        asyncio.get_running_loop().add_reader(sys.stdin, _give_up, sending)
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        share = (time.process_time() - cpu) / max(time.perf_counter() - began, 1e-9)
        for task in beside:
            task.cancel()
        self._connections.close()
        lags.sort()
        late, latest = (lags[int(0.99 * (len(lags) - 1))], lags[-1]) if lags else (0.0, 0.0)
        return Report(self._outcomes, self._tokens, share, late, latest)

    async def _send(self, start: float) -> None:
        """All conversations, each when it is due, to their ends."""
        async with asyncio.TaskGroup() as group:
            for number, due, conversation in zip(
                self._work.numbers, self._work.due, self._work.conversations, strict=True
            ):
                if (wait := start + due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._converse(number, conversation))

    async def _converse(self, number: int, conversation: Conversation) -> None:
        """Turn after turn; one that fails ends the conversation."""
        work = self._work
        backend = BACKENDS[work.backend](work.model, work.sampling, work.extra)
        for index, turn in enumerate(conversation):
            body = backend.begin(turn)
            asked = 0 if backend.adds_template else turn.prompt_tokens
            outcome = Outcome(number, index, asked, turn.output_tokens, start=0.0)
            async with self._places:
                await self._request(backend, body, outcome)
            backend.end(outcome.text)
            if not work.keeps_text:
                outcome.text = ""
            self._outcomes.append(outcome)
            if outcome.error:
                return

    async def _request(self, backend: Backend, body: bytes, outcome: Outcome) -> None:
        texts: list[str] = []

        def read(now: float, line: bytes) -> None:
            if not line.startswith(b"data:"):
                return
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = backend.read(data)
            if event.is_output:
                outcome.times.append(now)
                texts.append(event.text)
                self._tokens += 1
            _count(event, outcome)

        self._running += 1
        outcome.start = time.perf_counter()
        try:
            await self._connections.post(body, read)
            if not outcome.times:
                outcome.error = "the answer has no output"
        except HttpError as error:
            outcome.error = str(error)
        outcome.end = time.perf_counter()
        if not outcome.output_tokens:
            outcome.output_tokens, outcome.prompt_tokens = len(outcome.times), outcome.asked_prompt_tokens
            outcome.counts_events = True
        self._tokens += outcome.output_tokens - len(outcome.times)
        self._running -= 1
        self._done += 1
        self._failed += bool(outcome.error)
        outcome.text = "".join(texts)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            send(Progress(self._done, self._failed, self._running, self._tokens))


def _count(event: Event, outcome: Outcome) -> None:
    """What the server says of tokens."""
    if event.output_tokens is not None:
        outcome.output_tokens = event.output_tokens
    if event.prompt_tokens is not None:
        outcome.prompt_tokens = event.prompt_tokens
    if event.cached_tokens is not None:
        outcome.cached_tokens = event.cached_tokens


def _give_up(task: asyncio.Task) -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin)
    task.cancel()


async def _measure_lag(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + _LAG_EVERY_S
        await asyncio.sleep(_LAG_EVERY_S)
        lags.append(time.perf_counter() - due)


# Not sys.stdout.buffer: where Python runs unbuffered (-u), that may write a part of a message only.
_out = open(1, "wb", closefd=False)  # noqa: SIM115 (open as long as the process)


def send(message: Message) -> None:
    try:
        _out.write(msgspec.json.encode(message) + b"\n")
        _out.flush()
    except BrokenPipeError:
        os._exit(1)  # whoever asked for this is gone


def main() -> None:
    client = Client(msgspec.json.decode(sys.stdin.buffer.readline(), type=Work))
    send(Ready())
    start = float(sys.stdin.buffer.readline())
    # A collection would hold up all streams.
    gc.collect()
    gc.disable()
    send(uvloop.run(client.run(start)))


if __name__ == "__main__":
    main()
