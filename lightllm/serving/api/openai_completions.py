"""POST /v1/completions."""

import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from msgspec import UNSET, UnsetType

from lightllm.base.errors import RequestError
from lightllm.base.request import FinishReason, SamplingParams
from lightllm.serving import best_of
from lightllm.serving.api import beams, errors, openai, terms
from lightllm.serving.api import body as bodies
from lightllm.serving.api.body import GenerationBody, Int
from lightllm.serving.api.chunks import CompletionChunk
from lightllm.serving.api.documents import described
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.logprobs import CompletionForm, CompletionLogprobs, PromptLogprobs, for_prompt
from lightllm.serving.api.openai import DONE, FINISH, Usage, UsageCount, UsageTail, json
from lightllm.serving.api.service import Service
from lightllm.serving.records import NO_TOKENS, Tokens, Update

NEUTRAL: dict[str, tuple[object, ...]] = bodies.NEUTRAL | {"suffix": ("",), "store": (False,)}


class CompletionBody(GenerationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Text or token ids to continue, or a list of either; `n` choices of each, in order."""

    prompt: str | list[Int | str | list[Int]]
    logprobs: Int | None = None
    echo: bool | None = None
    best_of: Int | None = None
    token_healing: bool | None = None
    # Refused unless they say nothing, see NEUTRAL
    suffix: Any = None
    store: Any = None


class CompletionChoice(msgspec.Struct):
    """`stop_reason` is the stop string or stop token that ended the answer; null for an eos token."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    service_tier: Literal["default"] | UnsetType = UNSET


_decoder = msgspec.json.Decoder(CompletionBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/completions", **described(CompletionBody, Completion, streams=CompletionChunk))
    async def completions(request: Request) -> Response:
        """Continues one or more prompts. With stream=true: chunks as server-sent events, then `[DONE]`."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        service.check_model(body.model)
        params = _params(service, body)
        prompts = openai.several(body.prompt, param="prompt")
        tokens = await _encoded(service, body, prompts)
        echoes = [_Echo.of(service, body, *each) for each in zip(prompts, tokens, strict=True)]
        writers = [ChoiceWriter(service, body, echo) for echo in echoes for _ in range(params.num_samples)]
        granted = terms.of(service, request, body, cache_salt=body.cache_salt)
        generation = Generation(service.client, granted, until_end=not body.stream)
        await service.check_grammar(params)
        for prompt, healed in [await service.healed(prompt, params) for prompt in tokens]:
            generation.submit(prompt, healed)
        for writer, one in zip(writers, generation.requests, strict=True):
            writer.prompt_token_ids = openai.prompt_token_ids(service, body, one)
        if body.stream:
            return EventStream(generation, CompletionStream(service, body, generation, writers))
        needs_tokens = params.num_logprobs >= 0 or bool(body.return_token_ids)
        answers = await generation.whole(request.receive, with_tokens=needs_tokens)
        answer = _completion(service, body, params, generation, answers, writers)
        return Response(json(answer), media_type="application/json")

    return routes


def _params(service: Service, body: CompletionBody) -> SamplingParams:
    bodies.refuse_unsupported(body, NEUTRAL)
    openai.check_stream_options(body)
    # A request has an output: where only the echo is wanted, of one token that is not shown.
    max_tokens = 1 if _shows_no_output(body) else body.max_tokens
    values = openai.sampling_values(service, body, max_tokens=max_tokens, logprobs=body.logprobs)
    values["token_healing"] = body.token_healing
    values |= beams.values(body, best_of=body.best_of, stream=bool(body.stream))
    if body.echo:
        if body.truncate_prompt_tokens is not None:
            raise RequestError("echo repeats whole prompts; leave truncate_prompt_tokens out", param="echo")
        values["long_truncation_mode"] = "none"
    if body.echo and body.logprobs is not None:
        values["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    return service.params(values)


def _shows_no_output(body: CompletionBody) -> bool:
    return bool(body.echo) and body.max_tokens == 0


async def _encoded(service: Service, body: CompletionBody, prompts: list[str | list[int]]) -> list[list[int]]:
    """Token ids of each prompt."""
    adds, characters = body.add_special_tokens is not False, sum(map(len, prompts))

    def encode() -> list[list[int]]:
        return [
            prompt if isinstance(prompt, list) else service.need_tokenizer().encode(prompt, add_special_tokens=adds)
            for prompt in prompts
        ]

    return await service.aside(encode, characters)


@dataclass(frozen=True)
class _Echo:
    """What of a prompt is repeated: nothing, unless asked for."""

    text: str = ""
    first: int = -1  # token

    @classmethod
    def of(cls, service: Service, body: CompletionBody, prompt: str | list[int], ids: list[int]) -> "_Echo":
        if not body.echo:
            return cls()
        return cls(prompt if isinstance(prompt, str) else service.need_tokenizer().decode(prompt), next(iter(ids), -1))


class ChoiceWriter:
    """Puts one choice's text and logprobs together: the echo before the output, each where it is wanted."""

    def __init__(self, service: Service, body: CompletionBody, echo: _Echo):
        self._body, self._echo, self._is_echoed = body, echo, not body.echo
        skips, as_ids = body.skip_special_tokens is not False, bool(body.return_tokens_as_token_ids)
        self._form = CompletionForm(service, start=len(echo.text), skip_special_tokens=skips, as_ids=as_ids)
        self.prompt_token_ids: list[int] | UnsetType = UNSET

    def shown(self, update: Update) -> Update:
        """What of an update the client sees."""
        if not _shows_no_output(self._body):
            return update
        ended = FinishReason.LENGTH if update.finish_reason is FinishReason.STOP else update.finish_reason
        return replace(update, text="", tokens=NO_TOKENS, num_tokens=0, finish_reason=ended)

    def text(self, update: Update) -> str:
        return update.text if self._is_echoed else self._echo.text + update.text

    def logprobs(self, update: Update, prompt: Tokens) -> CompletionLogprobs | None:
        """`prompt`: what is known of the prompt's tokens, of which the samples of a prompt know it together."""
        if self._body.logprobs is None:
            return None
        found = CompletionLogprobs()
        if not self._is_echoed:
            found.extend(self._form.of_prompt(self._echo.text, self._echo.first, prompt, self._body.logprobs))
        if len(update.tokens):
            found.extend(self._form.of(update.tokens))
        return found

    def ids(self, update: Update) -> bytes:
        """What a chunk says of token ids, if anything."""
        new = b',"token_ids":' + json(update.tokens.ids.tolist()) if len(update.tokens) else b""
        if self.prompt_token_ids is UNSET:
            return new
        return new + b',"prompt_token_ids":' + json(self.prompt_token_ids)

    def note_begun(self) -> None:
        """The prompt was sent, where it was to be."""
        self._is_echoed, self.prompt_token_ids = True, UNSET


def _completion(
    service: Service,
    body: CompletionBody,
    params: SamplingParams,
    generation: Generation,
    answers: list[Update],
    writers: list[ChoiceWriter],
) -> Completion:
    count = UsageCount(generation.requests)
    answers = [writer.shown(answer) for writer, answer in zip(writers, answers, strict=True)]
    for sample, answer in enumerate(answers):
        count.note(sample, answer)
    choices = []
    for choice, sample in enumerate(_chosen(answers, params)):
        request, answer, writer = generation.requests[sample], answers[sample], writers[sample]
        assert answer.finish_reason is not None, "whole answers have ended"
        prompt = answers[sample - request.sample].prompt
        chosen = CompletionChoice(
            choice,
            writer.text(answer),
            writer.logprobs(answer, prompt),
            FINISH[answer.finish_reason],
            answer.stop_reason(request),
            answer.tokens.ids.tolist() if body.return_token_ids else UNSET,
            writer.prompt_token_ids,
        )
        if body.prompt_logprobs is not None:
            chosen.prompt_logprobs = for_prompt(service, prompt, body.prompt_logprobs)
        choices.append(chosen)
    return Completion(
        id=openai.answer_id("cmpl"),
        created=int(time.time()),
        model=service.model_name,
        choices=choices,
        usage=count.usage(),
        system_fingerprint=service.fingerprint,
        service_tier=openai.service_tier(body),
    )


def _chosen(answers: list[Update], params: SamplingParams) -> list[int]:
    """Which of the samples of all prompts are the answer, prompt by prompt."""
    each = params.num_samples
    return [
        first + sample
        for first in range(0, len(answers), each)
        for sample in best_of.chosen(answers[first : first + each], params)
    ]


class CompletionStream:
    """Chunks of one completion, put together from ready-made bytes around the text."""

    def __init__(self, service: Service, body: CompletionBody, generation: Generation, writers: list[ChoiceWriter]):
        self.needs_tokens = body.logprobs is not None or bool(body.return_token_ids)
        self._has_ids = bool(body.return_token_ids)
        self._generation, self._writers = generation, writers
        self._tail = UsageTail(UsageCount(generation.requests), body)
        self._echoes_logprobs = bool(body.echo) and body.logprobs is not None
        self._prompts: dict[int, Tokens] = {}  # logprobs of the prompts, by their first sample
        self._held: list[tuple[int, Update]] = []  # until those of their prompts are known
        self._head = openai.chunk_head(service, body, id=openai.answer_id("cmpl"), kind="text_completion")
        self._heads = [b'%s{"index":%d,"text":' % (self._head, choice) for choice in range(len(writers))]

    def event(self, choice: int, update: Update) -> bytes:
        if not self._echoes_logprobs:
            return self._chunk(choice, update, NO_TOKENS)
        # Those of the prompt come with its first sample, and before anything else of the others.
        if update.prompt.logprobs is not None:
            self._prompts[choice] = update.prompt
        self._held.append((choice, update))
        held, self._held, chunks = self._held, [], []
        for one, held_update in held:
            prompt = self._prompts.get(one - self._generation.requests[one].sample)
            if prompt is None:
                self._held.append((one, held_update))
            else:
                chunks.append(self._chunk(one, held_update, prompt))
        return b"".join(chunks)

    def _chunk(self, choice: int, update: Update, prompt: Tokens) -> bytes:
        writer, request = self._writers[choice], self._generation.requests[choice]
        update = writer.shown(update)
        self._tail.count.note(choice, update)
        text, logprobs, finish = writer.text(update), writer.logprobs(update, prompt), b"null"
        chosen = json(logprobs) if logprobs and logprobs.tokens else b"null"
        if self._has_ids:
            chosen += writer.ids(update)
        writer.note_begun()
        if update.finish_reason is not None:
            reason = json(update.stop_reason(request))
            finish = b'"%s","stop_reason":%s' % (FINISH[update.finish_reason].encode(), reason)
        elif not text and chosen == b"null":
            return b""
        return self._tail.end(
            b'%s%s,"logprobs":%s,"finish_reason":%s}]' % (self._heads[choice], json(text), chosen, finish)
        )

    def end(self) -> bytes:
        if not self._tail.is_asked:
            return DONE
        return b'%s],"usage":%s}\n\n' % (self._head, json(self._tail.count.usage())) + DONE

    def failure(self, status: int, message: str) -> bytes:
        return errors.event(status, message)
