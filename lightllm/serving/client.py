"""A client's side of the engine: the api processes and the offline API stand on it.

Nothing here waits: `submit` and `release` send, `poll` receives, `read` takes what is new out of shared memory. What
nobody reads stays there, so a slow reader costs no one else.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.base.errors import Closed, RequestError
from lightllm.base.grammar import encode
from lightllm.base.messages import (
    AnyMessage,
    Flush,
    Flushed,
    Message,
    Profile,
    Profiled,
    Requests,
    TextReady,
    parse_references,
)
from lightllm.base.metrics import Metrics
from lightllm.base.request import NO_TERMS, FinishReason, Refusal, SamplingParams, Terms
from lightllm.base.request_table import RequestTable
from lightllm.base.status import State, Status
from lightllm.base.task import Task
from lightllm.serving.grammar.checks import GrammarChecks, OnAnswer
from lightllm.serving.records import Records, Request, Update
from lightllm.serving.scheduling.admission import longest_admissible, why_not_alone
from lightllm.serving.scheduling.beam_search import why_not as why_no_beams
from lightllm.serving.truncation import truncated
from lightllm.serving.wanted_tokens import words_of

OnNews = Callable[[Request], None]
OnProfiled = Callable[[Profiled], None]
OnFlushed = Callable[[int | None], None]  # tokens, or None where the engine died first
_OUTCOMES = {FinishReason.ABORT: "request_aborted", FinishReason.TIMEOUT: "request_failure"}
_GENERATES = Task()
_ROUTES = {
    "generate": "it has no vectors and no scores to give; use a route that generates",
    "embed": "use /v1/embeddings, /v1/score or /v1/rerank",
    "classify": "use /v1/score, /v1/rerank or /get_score",
    "reward": "use /get_score",
}
_TOO_LATE = "its time was up before its first token; try again later, or give it more (timeout_s, --timeout_s)"


class Channel(Protocol):
    """What the client needs of a socket to another process. Both raise Closed when that process is gone."""

    def send(self, message: Message, /) -> None: ...
    def receive(self) -> AnyMessage | None: ...


class EngineClient:
    """Owns one client's part of the request table. Not thread-safe: one thread or event loop uses it."""

    def __init__(
        self,
        table: RequestTable,
        client: int,
        *,
        scheduler: Channel,
        detokenizer: Channel,
        status: Status,
        metrics: Metrics,
        config: EngineConfig,
        eos_ids: Sequence[int],
        vocab_size: int = 2**31 - 1,
        default_max_tokens: int | None = None,
        ttft_target_s: float | None = None,
        grammar: Channel | None = None,
        why_no_grammar: str | None = None,
        task: Task = _GENERATES,
    ):
        """`default_max_tokens` bounds the output of requests that set no maximum, as far as the engine allows it.

        With `ttft_target_s` requests are refused that would wait longer for their first token. `grammar` is the
        process that enforces grammars; without it requests that have one are refused, and `why_no_grammar` says why.
        """
        self._ttft_target_s = math.inf if ttft_target_s is None else ttft_target_s
        self._records, self._has_others = Records(table, client), table.shape.clients > 1
        self._status, self._metrics, self._config = status, metrics, config
        self._channels: dict[str, Channel | None] = {"scheduler": scheduler, "detokenizer": detokenizer}
        self._eos_ids, self.vocab_size, self._default_max_tokens = list(eos_ids), vocab_size, default_max_tokens
        self._grammars = GrammarChecks(self._records.pages, grammar, why_never=why_no_grammar)
        self._open: dict[int, Request] = {}
        self._refusal: str | None = None
        self.task = task
        self._on_profiled: OnProfiled | None = None
        self._on_flushed: list[OnFlushed] = []  # in the order in which it was asked

    # What the engine is asked.

    def submit(
        self,
        prompt: Sequence[int] | np.ndarray,
        params: SamplingParams,
        on_news: OnNews | None = None,
        *,
        terms: Terms = NO_TERMS,
        wants_vector: bool = False,
    ) -> list[Request]:
        """Sends a request for each sample, with seeds seed, seed + 1, ...; `poll` calls `on_news` when there is news.

        Raises RequestError: 400 for what can never run, 429 when full, 503 when not serving.
        """
        if reason := self.why_not_serving():
            raise RequestError(f"{reason}; try again later", status=503)
        if wants_vector == (self.task.kind == "generate"):
            raise RequestError(f"the model {self.task.name}: {_ROUTES[self.task.kind]}", param="model")
        tokens = self._shortened(self._ended(self._checked_prompt(prompt)), params)
        if self.task.last_token is not None:
            tokens[-1] = self.task.last_token  # what made room may have taken it
        max_tokens, timeout_s = self._max_tokens(len(tokens), params), self._timeout_s(terms)
        token_words = words_of(params, vocabulary=self.vocab_size, eos_ids=self._eos_ids)
        self._check_room(params, len(tokens))
        self._check_wait(params.num_samples, timeout_s)
        stop_ids = [*([] if params.ignore_eos else self._eos_ids), *params.stop_token_ids]
        self._check_beams(params, stop_ids)
        requests = self._records.take(
            tokens,
            params,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            token_words=token_words,
            terms=terms,
            timeout_s=timeout_s,
        )
        if requests is None:
            raise RequestError("the prompts of open requests fill the request table; try again later", status=429)
        for request in requests:
            request.wants_vector = wants_vector
        self._send(requests, on_news)
        self._metrics.add("request_count", params.num_samples)
        return requests

    def end(self, request: Request, update: Update) -> None:
        """Gives a request back of which `update` completes the answer, though the engine may go on."""
        if not request.is_finished:
            request.is_finished = True
            self._observe_end(request, update)
        self.release(request)

    def release(self, request: Request) -> None:
        """Gives a request's record back, and ends the request if it still runs. May be repeated."""
        if request.is_released:
            return
        request.is_released = True
        if not request.is_finished:
            self._metrics.add("request_aborted")
        del self._open[request.index]
        self._records.give_back(request)
        scheduler = self._channels["scheduler"]
        if scheduler is None or request.error is not None:
            return  # the engine that knew of it is gone
        try:
            scheduler.send(Requests(release=[(request.index, request.generation)]))
        except Closed:
            return

    # What the engine answers.

    def poll(self) -> list[Request]:
        """Takes in what the detokenizer has sent; returns the requests with news. Raises Closed after its death."""
        news: list[Request] = []
        detokenizer = self._channels["detokenizer"]
        while detokenizer is not None and (message := detokenizer.receive()) is not None:
            assert isinstance(message, TextReady), "the detokenizer speaks to clients of text only"
            now = time.monotonic()
            for index, generation in parse_references(message.references).tolist():
                request = self._open.get(index)
                if request is not None and request.generation == generation:
                    _tell(request, now)
                    news.append(request)
        return news

    def read(self, request: Request, *, with_tokens: bool = True) -> Update:
        """What is new of a request since it was read last; Update.tokens only where wanted."""
        request.has_news = False
        if request.is_released:
            return Update()
        if request.error is not None:
            update = Update(num_tokens=request.num_tokens, finish_reason=FinishReason.ERROR, error=request.error)
        else:
            update = self._explained(request, self._records.read(request, with_tokens=with_tokens))
        if update.finish_reason is not None and not request.is_finished:
            request.is_finished = True
            self._observe_end(request, update)
        return update

    def _explained(self, request: Request, update: Update) -> Update:
        """The update with what people need to know of a request that got nothing."""
        if update.finish_reason is FinishReason.REFUSED:
            refused = self._refused(*self._records.refusal(request))
            return replace(update, error=str(refused), retry_after_s=refused.retry_after_s)
        if update.finish_reason is FinishReason.TIMEOUT and not update.num_tokens:
            return replace(update, error=_TOO_LATE)
        return update

    def prompt_of(self, request: Request) -> np.ndarray:
        """The token ids that the engine was given [tokens] int32."""
        return self._records.prompt_of(request)

    def has_ended(self, request: Request) -> bool:
        """Whether the next read completes the request."""
        return request.error is not None or self._records.has_ended(request)

    # Grammars.

    def check(self, params: SamplingParams, on_answer: OnAnswer) -> None:
        """Calls `on_answer` with why the grammar of `params` cannot be enforced, or None; from `take_checks` if not at
        once. To be asked before `submit`, which does not look at it. Raises RequestError for one that is too large."""
        if params.grammar is None:
            on_answer(None)
        else:
            self._grammars.ask(encode(params.grammar), on_answer)

    def take_checks(self) -> None:
        """Takes in what the process `grammar` has sent. Raises Closed after its death."""
        self._grammars.take_answers()

    # Profiling.

    def profile(self, *, starts: bool, on_done: OnProfiled) -> None:
        """Starts a trace of all ranks, or stops it and has it written; `on_done` is called from `take_answers`.

        Raises RequestError where the engine does not serve or another order of this client is not done.
        """
        if not self._config.profile_dir:
            raise RequestError("profiling is off; start the server with --profile_dir=FOLDER")
        scheduler = self._channels["scheduler"]
        if scheduler is None:
            raise RequestError("the engine has failed; try again later", status=503)
        if self._on_profiled is not None:
            raise RequestError("another order to profile is being carried out; try again", status=409)
        scheduler.send(Profile(starts))
        self._on_profiled = on_done

    def flush_cache(self, on_flushed: OnFlushed) -> None:
        """Forgets prefixes that no request uses; `on_flushed` is called from `take_answers`.

        Raises RequestError where the engine does not serve.
        """
        if reason := self.why_not_serving():
            raise RequestError(f"{reason}; try again later", status=503)
        scheduler = self._channels["scheduler"]
        assert scheduler is not None, "else it would not serve"
        try:
            scheduler.send(Flush())
        except Closed:
            raise RequestError("the engine has failed; try again later", status=503) from None
        self._on_flushed.append(on_flushed)

    def take_answers(self) -> None:
        """Takes in what the scheduler has sent. Raises Closed after its death."""
        scheduler = self._channels["scheduler"]
        while scheduler is not None and (message := scheduler.receive()) is not None:
            match message:
                case Profiled():
                    self._profiled(message)
                case Flushed(tokens):
                    self._on_flushed.pop(0)(tokens)
                case _:
                    raise AssertionError(f"the scheduler sends no {type(message).__name__}")

    def _profiled(self, answer: Profiled) -> None:
        on_done, self._on_profiled = self._on_profiled, None
        if on_done is not None:
            on_done(answer)

    # The engine's end and its return.

    def engine_lost(self, reason: str) -> None:
        """The engine died: open requests end with FinishReason.ERROR and this reason, new ones are refused."""
        self._channels = dict.fromkeys(self._channels)
        self._grammars.reconnect(None)
        self._profiled(Profiled(failure=reason))
        waiting, self._on_flushed = self._on_flushed, []
        for on_flushed in waiting:
            on_flushed(None)
        now = time.monotonic()
        for request in list(self._open.values()):
            if not request.is_finished:
                request.error = reason
                _tell(request, now)

    def reconnect(self, name: str, channel: Channel) -> None:
        """A process was started again; `name` is "scheduler", "detokenizer" or "grammar"."""
        if name == "grammar":
            self._grammars.reconnect(channel)
            return
        assert name in self._channels, "clients speak with no other processes"
        self._channels[name] = channel

    def refuse(self, reason: str) -> None:
        """From now on new requests are refused; open ones go on."""
        self._refusal = reason

    def why_not_serving(self) -> str | None:
        """Why a request would be refused now whatever it says."""
        if self._refusal is not None:
            return self._refusal
        if (state := self._status.state) is not State.SERVING:
            return f"the server is {state.name.lower()}"
        if None in self._channels.values():
            return "the engine has failed"
        return None

    @property
    def open_requests(self) -> list[Request]:
        return list(self._open.values())

    # Checks.

    def _checked_prompt(self, prompt: Sequence[int] | np.ndarray) -> np.ndarray:
        tokens = np.asarray(prompt)
        if tokens.size == 0:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise RequestError("the prompt must be text or a list of token ids", param="prompt")
        wrong = tokens[(tokens < 0) | (tokens >= self.vocab_size)]
        if wrong.size:
            raise RequestError(
                f"token id {wrong[0]} is not in the vocabulary; use 0 to {self.vocab_size - 1}", param="prompt"
            )
        return tokens.astype(np.int32)

    def _ended(self, tokens: np.ndarray) -> np.ndarray:
        """The prompt, with the token that the model's answers are read from at its end."""
        last = self.task.last_token
        return tokens if last is None or tokens[-1] == last else np.append(tokens, np.int32(last))

    def _shortened(self, tokens: np.ndarray, params: SamplingParams) -> np.ndarray:
        """The prompt, less what the request or the server wants it to lose.

        Without max_tokens room is left for as long an answer as the scheduler expects, but half of all at most.
        """
        mode = self._config.long_truncation_mode if params.long_truncation_mode is None else params.long_truncation_mode
        room = longest_admissible(0, pool_tokens=self._status.pool_tokens, max_length=self._status.max_request_tokens)
        answer = params.max_tokens
        if answer is None:
            answer = max(1, min(self._default_max_tokens or self._config.router_max_new_token_len, room // 2))
        return truncated(tokens, params, most=room - answer, mode=None if mode == "none" else mode)

    def _max_tokens(self, prompt_tokens: int, params: SamplingParams) -> int:
        pool_tokens, max_length = self._status.pool_tokens, self._status.max_request_tokens
        beams = params.num_beams or 1
        if params.max_tokens is not None:
            asked, param = params.max_tokens, "max_tokens"
        else:
            most = longest_admissible(prompt_tokens, pool_tokens=pool_tokens, max_length=max_length, beams=beams)
            asked, param = max(1, min(most, self._default_max_tokens or most)), "prompt"
        reason = why_not_alone(prompt_tokens, asked, pool_tokens=pool_tokens, max_length=max_length, beams=beams)
        if reason is not None:
            raise RequestError(reason, param=param)
        if params.min_tokens > asked:
            raise RequestError(
                f"min_tokens={params.min_tokens} is more than the {asked} tokens that the answer may have; lower it",
                param="min_tokens",
            )
        return asked

    def _check_beams(self, params: SamplingParams, stop_ids: list[int]) -> None:
        """Raises RequestError for a beam search that this engine does not do."""
        if (options := params.beams) is None:
            return
        reason = why_no_beams(options, num_stops=len(set(stop_ids)), min_tokens=params.min_tokens)
        most = min(self._config.running_max_req_size, self._config.batch_max_tokens)
        if options.width > most:
            reason = f"num_beams={options.width} is more than may run at once; use at most {most}"
        if self._config.disable_dynamic_prompt_cache:
            reason = (
                "beams share what they have in common by the prefix tree, which --disable_dynamic_prompt_cache forbids"
            )
        if reason:
            raise RequestError(reason, param="num_beams")

    def _timeout_s(self, terms: Terms) -> float | None:
        """Seconds that the request has. Raises RequestError for terms that this server does not grant."""
        policy, longest = self._config.schedule_policy, self._config.timeout_s
        if terms.priority and policy != "priority":
            raise RequestError(
                f"priority={terms.priority} has no effect with --schedule_policy={policy}; leave it out, or start the "
                "server with --schedule_policy=priority",
                param="priority",
            )
        if terms.timeout_s is None or longest is None:
            return terms.timeout_s or longest
        if terms.timeout_s > longest:
            raise RequestError(
                f"timeout_s={terms.timeout_s:g} is more than the server allows; use at most {longest:g}",
                param="timeout_s",
            )
        return terms.timeout_s

    def _check_room(self, params: SamplingParams, prompt_tokens: int) -> None:
        """Refuses what the scheduler would surely refuse, which costs the engine nothing.

        What is seen of other clients' requests may be a moment old: the last word is the scheduler's.
        """
        count = params.num_samples
        places = 1 if params.beams is not None else count  # in the queue
        if count > self._records.num_free:
            raise RequestError(
                f"{len(self._open)} requests are open and {count} more have no room; try again later",
                status=429,
            )
        waiting, tokens = (self._status.waiting_requests, self._status.waiting_tokens) if self._has_others else (0, 0)
        most, most_tokens = self._config.max_queued_requests, self._config.max_queued_tokens
        if len(self._open) + count > most or most_tokens is not None:
            mine, my_tokens = self._records.waiting(self._open.values())
            waiting, tokens = max(waiting, mine), max(tokens, my_tokens)
        # With nobody waiting the request may run at once, so it is let in whatever the limit.
        if not waiting:
            return
        if waiting + places > most:
            raise self._refused_here(Refusal.QUEUE_REQUESTS, count)
        if most_tokens is not None and tokens + places * prompt_tokens > most_tokens:
            raise self._refused_here(Refusal.QUEUE_TOKENS, count)

    def _check_wait(self, count: int, timeout_s: float | None) -> None:
        """Likewise, where a request goes behind all that wait, so that their wait is its own."""
        patience = min(self._ttft_target_s, timeout_s or math.inf)
        if self._config.schedule_policy == "fcfs" and self._status.predicted_wait > patience:
            raise self._refused_here(Refusal.TOO_LATE, count)

    def _refused_here(self, refusal: Refusal, count: int) -> RequestError:
        self._metrics.add(f"refused_{refusal.name.lower()}", count)
        return self._refused(refusal, self._status.predicted_wait)

    def _refused(self, refusal: Refusal, wait: float) -> RequestError:
        """`wait`: seconds it would have to wait, NaN if nothing is known of that."""
        reason = {
            Refusal.NONE: "the scheduler has refused it",
            Refusal.QUEUE_REQUESTS: f"as many requests wait as may wait (--max_queued_requests="
            f"{self._config.max_queued_requests})",
            Refusal.QUEUE_TOKENS: f"prompts of as many tokens wait as may wait (--max_queued_tokens="
            f"{self._config.max_queued_tokens})",
            Refusal.TOO_LATE: f"its first token would come {_when(wait)}, which may be later than it must "
            "(--ttft_target_s, timeout_s)",
        }[refusal]
        known = None if math.isnan(wait) else wait
        return RequestError(f"{reason}; try again later", status=429, retry_after_s=known)

    # Bookkeeping.

    def _send(self, requests: list[Request], on_news: OnNews | None) -> None:
        try:
            scheduler = self._channels["scheduler"]
            assert scheduler is not None, "why_not_serving has looked"
            scheduler.send(Requests(submit=[(request.index, request.generation) for request in requests]))
        except Closed:
            for request in requests:
                self._records.give_back(request)
            raise RequestError("the engine has failed; try again later", status=503) from None
        for request in requests:
            request.on_news = on_news
            self._open[request.index] = request
            self._metrics.observe("request_input_length", request.prompt_tokens)

    def _observe_end(self, request: Request, update: Update) -> None:
        observe, tokens = self._metrics.observe, update.num_tokens
        if update.error is not None or update.finish_reason is None:
            self._metrics.add("request_failure")
            return
        self._metrics.add(_OUTCOMES.get(update.finish_reason, "request_success"))
        observe("request_generated_tokens", tokens)
        observe("cache_length", update.cached_tokens)
        observe("request_inference_duration", request.last_news - request.arrival)
        observe("request_first_token_duration", request.first_news - request.arrival)
        if tokens > 1:
            observe("request_mean_time_per_token_duration", (request.last_news - request.first_news) / (tokens - 1))


def _when(wait: float) -> str:
    return "at a time that is not known yet" if math.isnan(wait) else f"in about {wait:.1f} s"


def _tell(request: Request, now: float) -> None:
    request.has_news = True
    request.last_news = now
    request.first_news = request.first_news or now
    if request.on_news is not None:
        request.on_news(request)
