"""The engine of tests, in one thread: scripted answers, over real channels and a real table."""

import math
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from tokenizers import Tokenizer

from lightllm.base.errors import Closed
from lightllm.base.messages import Compile, Compiled, Flush, Flushed, Profile, Requests, TextReady
from lightllm.base.request import FinishReason, Refusal
from lightllm.base.request_table import Options, RequestTable, TableShape
from lightllm.base.status import State, Status
from lightllm.base.step import StepResult
from lightllm.processes.ipc.channels import Channel
from lightllm.serving.scheduling.output import OutputWriter
from lightllm.serving.text.incremental import Decoders
from lightllm.serving.text.output_text import OutputText

Script = Callable[[list[int], int], list[int]]  # prompt, seed -> output tokens, whatever the limit
CHOSEN, STEP = -0.5, 1.0  # logprob of the chosen token, and how much less each of the next likeliest has


@dataclass
class Running:
    tokens: list[int]
    stops: frozenset[int]
    max_tokens: int
    num_logprobs: int
    num_prompt_logprobs: int
    prompt: list[int]
    done: int = 0


@dataclass
class FakeEngine:
    """`max_running` requests run at a time, each one token a tick of `tick_s`."""

    tokenizer: Tokenizer
    script: Script
    shape: TableShape
    tick_s: float = 0.0
    max_running: int = 1000
    vector_of: Callable[[list[int]], list[float]] | None = None  # a prompt's, of a model that does not generate
    pool_tokens: int = 100_000
    max_length: int = 4096
    ticks: int = 0
    running: dict[tuple[int, int], Running] = field(default_factory=dict)
    waiting: dict[tuple[int, int], Running] = field(default_factory=dict)
    open: set[tuple[int, int]] = field(default_factory=set)  # not released
    prompts: list[list[int]] = field(default_factory=list)  # of all requests so far
    options: list[Options] = field(default_factory=list)  # likewise
    records: list[np.void] = field(default_factory=list)  # copies, as they were when the requests came
    options: list[Options] = field(default_factory=list)  # likewise
    paused: threading.Event = field(default_factory=threading.Event)
    profiles: list[Profile] = field(default_factory=list)  # orders, never answered
    refusal: Refusal = Refusal.NONE  # if any, everything that comes is refused for it
    forbids_all: bool = False  # whether grammars allow nothing
    predicted_wait: float = math.nan
    grammars: list[bytes] = field(default_factory=list)  # that were asked about
    grammar_refusal: str = ""  # the answer to that

    def __post_init__(self) -> None:
        self.table_memory, self.status_memory = RequestTable.create(self.shape), Status.create()
        self.table, self.status = RequestTable(self.table_memory, self.shape), Status(self.status_memory)
        self.status.record["pool_tokens"], self.status.record["max_request_tokens"] = self.pool_tokens, self.max_length
        self.status.state = State.SERVING
        self.connect()

    def connect(self) -> None:
        """Sockets to a client and empty books, as after a start; `scheduler`, `detokenizer` are the client's ends."""
        self.scheduler, mine = Channel.pair()
        self._requests = Channel(mine)
        self.detokenizer, mine = Channel.pair()
        self._news = Channel(mine)
        self.grammar, mine = Channel.pair()
        self._checks = Channel(mine)
        self._output = OutputWriter(self.table)
        self._text = OutputText(self.table, Decoders(self.tokenizer))
        self.running, self.waiting, self.open, self._begun, self._is_ended = {}, {}, set(), set(), False
        self._is_time_up = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Dies: the client's channels close."""
        self._is_ended = True
        self._thread.join()
        self._requests.close()
        self._news.close()
        self._checks.close()

    def is_idle(self, timeout_s: float = 5) -> bool:
        """Whether all requests are gone, now or soon."""
        deadline = time.monotonic() + timeout_s
        while self.open and time.monotonic() < deadline:
            time.sleep(0.005)
        return not self.open

    def _run(self) -> None:
        waiting = select.poll()  # select knows only the first 1024 descriptors of a process
        for channel in (self._requests, self._checks):
            waiting.register(channel.fileno(), select.POLLIN)
        while not self._is_ended:
            readable = waiting.poll(0 if self.running else 5)
            try:
                self._check_grammars()
                while readable and (message := self._requests.receive()) is not None:
                    self._receive(message)
                self._tick()
            except Closed:
                return

    def _check_grammars(self) -> None:
        while (message := self._checks.receive()) is not None:
            assert isinstance(message, Compile)
            self.grammars.append(self.table.pages.read_bytes(message.page, 0, message.size))
            self._checks.send(Compiled(message.number, self.grammar_refusal))

    def _receive(self, message: object) -> None:
        if isinstance(message, Profile):
            self.profiles.append(message)
            return
        if isinstance(message, Flush):
            self._requests.send(Flushed(len(self.prompts)))
            return
        assert isinstance(message, Requests)
        for reference in message.submit:
            if (request := self._read(*reference)) is not None:
                self.open.add(reference)
                self.waiting[reference] = request
                if self.refusal or self.forbids_all:
                    self._finish_at_once(reference, FinishReason.REFUSED if self.refusal else FinishReason.GRAMMAR)
        for reference in message.release:
            self.open.discard(reference)
            self.waiting.pop(reference, None)
            self.running.pop(reference, None)
            if reference in self._begun:
                self._begun.remove(reference)
                self._output.close(reference[0])
                self._text.release(np.array([reference], dtype=np.uint32))

    def _read(self, index: int, generation: int) -> Running | None:
        """What a client wrote, or None if it has left the record meanwhile."""
        record = self.table.records[index].copy()
        try:
            prompt, options = self.table.prompt(index).tolist(), self.table.options(index)
        except msgspec.MsgspecError:
            return None
        if self.table.records[index]["generation"] != generation:
            return None
        self.prompts.append(prompt)
        self.options.append(options)
        self.records.append(record)
        self.options.append(options)
        tokens, stops = self.script(prompt, int(record["seed"])), frozenset(options.stop_token_ids)
        counts = int(record["num_logprobs"]), int(record["num_prompt_logprobs"])
        return Running(tokens, stops, int(record["max_tokens"]), *counts, prompt)

    def _tick(self) -> None:
        if self._is_time_up:
            self._is_time_up = False
            for reference in [*self.waiting, *self.running]:
                self._finish_at_once(reference, FinishReason.TIMEOUT)
        while self.waiting and len(self.running) < self.max_running and not self.paused.is_set():
            self._start(next(iter(self.waiting)))
        if not self.running or self.paused.is_set():
            return
        self.ticks += 1
        time.sleep(self.tick_s)
        references = np.array(list(self.running), dtype=np.uint32)
        ended = [reference for reference in self.running if self._step(reference)]
        news, stopped = self._text.advance(references)
        for reference in [*ended, *stopped]:
            self.running.pop(reference, None)
        if len(news):
            self._news.send(TextReady(news.tobytes()))

    def expire(self) -> None:
        """The time of all that waits and runs is up."""
        self._is_time_up = True

    def _finish_at_once(self, reference: tuple[int, int], reason: FinishReason) -> None:
        """Ends a request with what there is; one that waits has nothing."""
        if reference in self.waiting:
            self._start(reference)
        record = self.table.records[reference[0]]
        record["refusal"], record["predicted_wait"], record["finish_reason"] = self.refusal, self.predicted_wait, reason
        del self.running[reference]
        references = np.array([reference], dtype=np.uint32)
        self._text.advance(references)
        self._news.send(TextReady(references.tobytes()))

    def _start(self, reference: tuple[int, int]) -> None:
        request, (index, generation) = self.waiting.pop(reference), reference
        record = self.table.records[index]
        self._output.open(index, num_logprobs=request.num_logprobs)
        self._score(index, request)
        record["finish_reason"], record["cached_tokens"] = FinishReason.NONE, len(request.prompt) // 2
        record["started"], record["output_generation"] = time.monotonic(), generation
        self.running[reference] = request
        self._begun.add(reference)

    def _score(self, index: int, request: Running) -> None:
        """Gives the request all logprobs of its prompt that it wants: its tokens' numbers, and less for others."""
        if (count := request.num_prompt_logprobs) < 0:
            return
        tokens = np.array(request.prompt[1:], dtype=np.int32)
        result = _result(-1, -1)
        result.scores = -tokens.astype(np.float32)
        result.score_top_tokens = tokens[:, None] + np.arange(count, dtype=np.int32)
        result.score_top_logprobs = result.scores[:, None] - STEP * np.arange(count, dtype=np.float32)
        self._output.scores.append(index, tokens, result, slice(0, len(tokens)), num_logprobs=count)

    def _step(self, reference: tuple[int, int]) -> bool:
        """Gives a request its next token; returns whether it was the last."""
        request, (index, _) = self.running[reference], reference
        token = request.tokens[request.done % len(request.tokens)]
        request.done += 1
        if self.vector_of is not None:
            self._output.scores.put(index, np.array(self.vector_of(request.prompt), dtype=np.float32))
        self._output.append(np.array([index]), np.array([0]), _result(token, request.num_logprobs))
        finish = FinishReason.LENGTH if request.done >= request.max_tokens else FinishReason.NONE
        self.table.records[index]["finish_reason"] = FinishReason.STOP if token in request.stops else finish
        return bool(self.table.records[index]["finish_reason"])


def _result(token: int, num_logprobs: int) -> StepResult:
    count = max(0, num_logprobs)
    return StepResult(
        step=0,
        tokens=np.array([token], dtype=np.int32),
        logprobs=np.array([CHOSEN], dtype=np.float32),
        top_tokens=(token + np.arange(count, dtype=np.int32))[None],
        top_logprobs=(CHOSEN - STEP * np.arange(count, dtype=np.float32))[None],
        seconds=0.0,
        next_was_ready=True,
    )
