"""The offline API: prompts in, results out, in one call.

    from lightllm import LLM, SamplingParams

    with LLM("path/to/model") as llm:
        for result in llm.generate(["one", "two"], SamplingParams(max_tokens=20)):
            print(result.outputs[0].text)

The same processes serve it as serve HTTP, with this process as their only client.
"""

import operator
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from lightllm.base import env, log
from lightllm.base.config import EngineConfig, ServerConfig, parse
from lightllm.base.errors import EngineDeadError, RequestError
from lightllm.base.request import SamplingParams, Terms
from lightllm.base.task import Kind, Task
from lightllm.processes.supervision.offline import OfflineEngine
from lightllm.serving import best_of, vectors
from lightllm.serving.api.messages import Message, prepared, prepared_tools
from lightllm.serving.api.service import Service
from lightllm.serving.records import Request, Tokens, Update

Prompt = str | Sequence[int] | Mapping[str, Any]
# Requests in the engine's hands, per request that may run: enough that none of the places is ever free.
_OPEN_PER_RUNNING = 2
_log = log.get(__name__)


@dataclass(frozen=True)
class Logprob:
    """Of one token at one place."""

    logprob: float
    rank: int | None  # 1 for the likeliest; None if it is not among those asked for
    decoded_token: str


@dataclass(frozen=True)
class CompletionOutput:
    """One sample."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str  # stop, length, abort or error
    stop_reason: str | int | None = None  # the stop string or stop token that ended it; None for eos
    logprobs: list[dict[int, Logprob]] | None = None  # by token: the chosen one and the likeliest
    cumulative_logprob: float | None = None


@dataclass
class RequestOutput:
    """One prompt and its samples."""

    prompt: str | None
    prompt_token_ids: list[int] = field(default_factory=list)
    outputs: list[CompletionOutput] = field(default_factory=list)
    num_cached_tokens: int = 0  # of the prompt, found in the prefix tree
    vector: np.ndarray | None = None  # of a model that does not generate
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None  # as a sample's; None for the prompt's first token


class LLM:
    """An engine of one's own. Use as a context manager, or `close` it; at the latest it ends with the interpreter."""

    def __init__(self, model: str = "", **config: Any):
        """`model` is a checkpoint's directory or hub name, the bundled model if empty; `config` has the flags' names.

        Returns when the model is loaded. Raises ConfigError or EngineDeadError.
        """
        # Nobody reads along: what counts is when all requests have ended.
        defaults = {"running_max_req_size": 256, "prompts_first": True, "log_level": env.OFFLINE_LOG_LEVEL}
        settings = parse(EngineConfig, {**defaults, "model_dir": model, **config})
        log.setup("offline", settings.log_level)
        self._engine = OfflineEngine(ServerConfig(**msgspec.structs.asdict(settings)))
        self._most_open = _OPEN_PER_RUNNING * settings.running_max_req_size
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, self._engine.close)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """Continues each prompt: a text, token ids, or {"prompt": text} or {"prompt_token_ids": ids}.

        One SamplingParams serves all prompts; None means what the checkpoint recommends. With schedule_policy=priority
        prompts of smaller `priority` go first, one for all or one for each. Results are in the prompts' order. Raises
        RequestError for a prompt that cannot be served, EngineDeadError if a process of the engine dies.
        """
        each = [_parse_prompt(prompt) for prompt in _as_list(prompts)]
        return self._run([(RequestOutput(text, ids), True) for text, ids in each], sampling_params, priority, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        priority: int | Sequence[int] = 0,
        use_tqdm: bool = False,
    ) -> list[RequestOutput]:
        """As `generate`, for one conversation or a list of them, rendered with the chat template."""
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        if any(tool["function"].get("strict") for tool in prepared_tools(tools) or []):
            raise RequestError("strict tools are for the server; here give the grammar of the answer", param="tools")
        template = self._engine.service.need_template()
        prompts = [
            template.render(
                prepared(list(conversation)),  # type: ignore[arg-type]
                tools=prepared_tools(tools),
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                variables=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        return self._run([(RequestOutput(prompt), False) for prompt in prompts], sampling_params, priority, use_tqdm)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, dimensions: int | None = None, use_tqdm: bool = False
    ) -> list[list[float]]:
        """The embedding of each prompt, from an embedding model. Prompts as `generate` takes them.

        dimensions: how many of its first numbers are wanted, of a model that was trained for it.
        """
        task = self._task("embed")
        vectors.check_width(task, dimensions)
        found = self._vectors(prompts, "embed", use_tqdm)
        return [vectors.shortened(task, vector, dimensions).tolist() for vector in found]

    def reward(self, prompts: Prompt | Sequence[Prompt], *, use_tqdm: bool = False) -> list[float]:
        """What a reward model thinks of each prompt, which is a conversation rendered with its template."""
        return [float(vector[0]) for vector in self._vectors(prompts, "reward", use_tqdm)]

    def classify(self, prompts: Prompt | Sequence[Prompt], *, use_tqdm: bool = False) -> list[list[float]]:
        """A classifier's raw scores of each prompt, one for each label."""
        return [vector.tolist() for vector in self._vectors(prompts, "classify", use_tqdm)]

    def score(
        self,
        left: str | Sequence[str],
        right: str | Sequence[str],
        *,
        instruct: str | None = None,
        use_tqdm: bool = False,
    ) -> list[float]:
        """How well texts match, pair by pair; a single `left` is compared with each of `right`.

        The cosine of their embeddings, or a classifier's only label, between 0 and 1. instruct: what a model that is
        told what counts as a match is told.
        """
        ones, others = ([text] if isinstance(text, str) else list(text) for text in (left, right))
        ones = ones * len(others) if len(ones) == 1 else ones
        if len(ones) != len(others):
            raise RequestError(f"{len(ones)} texts for {len(others)} others; give one, or one for each")
        service = self._engine.service
        pairs = [service.pairs.of(*texts, instruct) for texts in zip(ones, others, strict=True)]
        prompts = [{"prompt_token_ids": prompt} for prompts in pairs for prompt in prompts]
        task = service.client.task
        found, each = self._vectors(prompts, task.kind, use_tqdm), len(pairs[0]) if pairs else 1
        return [vectors.score(task, found[at : at + each]) for at in range(0, len(found), each)]

    def _task(self, kind: Kind) -> Task:
        """The model's. Raises RequestError if it is for something else."""
        if (task := self._engine.service.client.task).kind != kind:
            raise RequestError(f"the model {task.name}; this takes one of another kind")
        return task

    def _vectors(self, prompts: Prompt | Sequence[Prompt], kind: Kind, use_tqdm: bool) -> list[np.ndarray]:
        self._task(kind)
        each = [_parse_prompt(prompt) for prompt in _as_list(prompts)]
        results = self._run([(RequestOutput(text, ids), True) for text, ids in each], vectors.PARAMS, 0, use_tqdm, True)
        found = [result.vector for result in results if result.vector is not None]
        if len(found) < len(results):
            lacking = next(result for result in results if result.vector is None)
            reason = lacking.outputs[0].finish_reason
            raise RequestError(f"a prompt ended without its vector ({reason}), so there is no answer", status=503)
        return found

    def close(self) -> None:
        """Ends the engine's processes. May be repeated."""
        self._end()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _run(
        self,
        results: list[tuple[RequestOutput, bool]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: int | Sequence[int],
        use_tqdm: bool,
        wants_vectors: bool = False,
    ) -> list[RequestOutput]:
        if not self._end.alive:
            raise EngineDeadError("this LLM was closed; make a new one")
        params, priorities = self._params(sampling_params, len(results)), _priorities(priority, len(results))
        progress = tqdm(total=len(results), unit="prompt") if use_tqdm else nullcontext()
        with self._lock, progress as bar:
            self._engine.wait_until_serving()
            run = _Run(self._engine, self._most_open, bar, wants_vectors=wants_vectors)
            # Those that run longest begin first, as far as that is known: then all of them together end sooner.
            for at in sorted(range(len(results)), key=lambda at: (priorities[at], -(params[at].known_length or 0))):
                result, add_special_tokens = results[at]
                run.add(result, params[at], Terms(priority=priorities[at]), add_special_tokens=add_special_tokens)
            run.finish()
        return [result for result, _ in results]

    def _params(self, given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> Sequence[SamplingParams]:
        if given is None or isinstance(given, SamplingParams):
            return [self._engine.service.with_bad_words(given or self._engine.service.params({}))] * count
        if len(given) != count:
            raise RequestError(f"{len(given)} sampling_params for {count} prompts; give one, or one for each")
        return [self._engine.service.with_bad_words(one) for one in given]


@dataclass(frozen=True)
class _Job:
    result: RequestOutput
    params: SamplingParams
    terms: Terms
    add_special_tokens: bool
    ended: dict[Request, Update] = field(default_factory=dict)


class _Run:
    """One call of the offline API: prompts that wait, requests in the engine's hands."""

    def __init__(self, engine: OfflineEngine, most_open: int, bar: tqdm | None, *, wants_vectors: bool):
        self._engine, self._most_open, self._bar, self._wants_vectors = engine, most_open, bar, wants_vectors
        self._client = engine.service.client
        self._waiting: deque[_Job] = deque()
        self._open: dict[Request, _Job] = {}

    def add(self, result: RequestOutput, params: SamplingParams, terms: Terms, *, add_special_tokens: bool) -> None:
        self._waiting.append(_Job(result, params, terms, add_special_tokens))

    def finish(self) -> None:
        """Completes the results of all jobs; whatever happens, nothing of this call stays in the engine."""
        try:
            self._submit()
            while self._open:
                for request in set(self._engine.wait()):
                    if self._client.has_ended(request):
                        self._take(request)
                self._submit()
        finally:
            for request in self._open:
                self._client.release(request)

    def _submit(self) -> None:
        """Gives the engine as many requests as it may hold."""
        while self._waiting and len(self._open) < self._most_open:
            job = self._waiting[0]
            if job.result.prompt is not None and not job.result.prompt_token_ids:
                tokenizer = self._engine.service.need_tokenizer()
                ids = tokenizer.encode(job.result.prompt, add_special_tokens=job.add_special_tokens)
                job.result.prompt_token_ids = ids
            self._engine.check_grammar(job.params)
            try:
                asked = self._engine.service.healed_now(job.result.prompt_token_ids, job.params)
                requests = self._client.submit(*asked, terms=job.terms, wants_vector=self._wants_vectors)
            except RequestError as error:
                if error.status == 429 and self._open:
                    return  # there is room when some of the open ones have ended
                if error.status == 503:
                    raise EngineDeadError(str(error)) from None
                raise
            if requests[0].prompt_tokens < len(job.result.prompt_token_ids):  # it was truncated
                job.result.prompt_token_ids = self._client.prompt_of(requests[0]).tolist()
            self._waiting.popleft()
            self._open.update(dict.fromkeys(requests, job))

    def _take(self, request: Request) -> None:
        update = self._client.read(request)
        self._client.release(request)
        job = self._open.pop(request)
        job.ended[request] = update
        job.result.vector = update.vector
        if update.error:
            _log.warning("%s", update.error)
        if request.sample == 0 and job.params.prompt_logprobs is not None:
            job.result.prompt_logprobs = [None, *(_logprobs(self._engine.service, update.prompt) or [])]
        job.result.num_cached_tokens = max(job.result.num_cached_tokens, update.cached_tokens)
        if len(job.ended) == job.params.num_samples:
            job.result.outputs += _completions(self._engine.service, job)
            if self._bar is not None:
                self._bar.update()


def _completions(service: Service, job: _Job) -> list[CompletionOutput]:
    """The samples of a prompt, all of which have ended, that are its result."""
    requests = sorted(job.ended, key=lambda request: request.sample)
    chosen = best_of.chosen([job.ended[request] for request in requests], job.params)
    return [
        _completion(service, index, requests[sample], job.ended[requests[sample]])
        for index, sample in enumerate(chosen)
    ]


def _completion(service: Service, index: int, request: Request, update: Update) -> CompletionOutput:
    assert update.finish_reason is not None, "only requests that have ended are read"
    tokens = update.tokens
    return CompletionOutput(
        index=index,
        text=update.text,
        token_ids=tokens.ids.tolist(),
        finish_reason=update.finish_reason.name.lower(),
        stop_reason=update.stop_reason(request),
        logprobs=_logprobs(service, tokens),
        cumulative_logprob=None if tokens.logprobs is None else float(tokens.logprobs.sum(dtype=float)),
    )


def _logprobs(service: Service, tokens: Tokens) -> list[dict[int, Logprob]] | None:
    if tokens.logprobs is None or tokens.top_ids is None or tokens.top_logprobs is None:
        return None
    each = []
    likeliest = zip(tokens.top_ids.tolist(), tokens.top_logprobs.tolist(), strict=True)
    for token, logprob, (top_ids, values) in zip(tokens.ids.tolist(), tokens.logprobs.tolist(), likeliest, strict=True):
        top = {other: (value, rank) for rank, (other, value) in enumerate(zip(top_ids, values, strict=True), start=1)}
        each.append(
            {one: Logprob(*about, service.token_text(one)) for one, about in ({token: (logprob, None)} | top).items()}
        )
    return each


def _priorities(given: int | Sequence[int], count: int) -> Sequence[int]:
    if isinstance(given, int):
        return [given] * count
    if len(given) != count:
        raise RequestError(f"{len(given)} priorities for {count} prompts; give one, or one for each", param="priority")
    return given


def _as_list(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    """A single prompt as a list of one."""
    is_one = isinstance(prompts, (str, Mapping)) or (len(prompts) > 0 and _is_token(prompts[0]))
    return [prompts] if is_one else prompts  # type: ignore[return-value]


def _is_token(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _parse_prompt(prompt: Prompt) -> tuple[str | None, list[int]]:
    """Text, or None, and token ids."""
    given: Any = prompt
    if isinstance(prompt, Mapping):
        if len(prompt) != 1 or next(iter(prompt)) not in ("prompt", "prompt_token_ids"):
            raise RequestError(f"a prompt has {sorted(prompt)}; use prompt or prompt_token_ids", param="prompt")
        given = next(iter(prompt.values()))
    if isinstance(given, str):
        if not given:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        return given, []
    try:
        return None, list(map(operator.index, given))
    except TypeError:
        wrong = next(token for token in given if not _is_token(token))
        raise RequestError(f"a prompt has {wrong!r}; use text or a list of token ids", param="prompt") from None
