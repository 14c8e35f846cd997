"""POST /v1/completions."""

import time
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving import best_of
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai, terms
from lightllm.serving.api.body import GenerationBody, Int
from lightllm.serving.api.documents import described
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.logprobs import CompletionForm, CompletionLogprobs
from lightllm.serving.api.openai import DONE, FINISH, Usage, UsageCount, UsageTail, json
from lightllm.serving.api.service import Service
from lightllm.serving.records import Update

NEUTRAL: dict[str, tuple[object, ...]] = bodies.NEUTRAL | {"suffix": ("",)}


class CompletionBody(GenerationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Text or token ids to continue, or a list of either; `n` choices of each, in order."""

    prompt: str | list[Int | str | list[Int]]
    logprobs: Int | None = None
    echo: bool | None = None
    best_of: Int | None = None
    # Refused unless it says nothing, see NEUTRAL
    suffix: Any = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """`stop_reason` is the stop string or stop token that ended the answer; null for an eos token."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str
    stop_reason: str | int | None


class Completion(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


_decoder = msgspec.json.Decoder(CompletionBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/completions", **described(CompletionBody, Completion, streams=True))
    async def completions(request: Request) -> Response:
        """Continues one or more prompts. With stream=true: chunks as server-sent events, then `[DONE]`."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        service.check_model(body.model)
        params = _params(service, body)
        prompts = _prompts(body)
        tokens = await _encoded(service, body, prompts)
        generation = Generation(service.client, terms.of(service, request, body), until_end=not body.stream)
        for prompt in tokens:
            generation.submit(prompt, params)
        echoes = [_echo(service, prompt) if body.echo else "" for prompt in prompts for _ in range(params.num_samples)]
        if body.stream:
            return EventStream(generation, CompletionStream(service, body, generation, echoes))
        answers = await generation.whole(request.receive, with_tokens=params.num_logprobs >= 0)
        answer = _completion(service, body, params, generation, answers, echoes)
        return Response(json(answer), media_type="application/json")

    return routes


def _params(service: Service, body: CompletionBody) -> SamplingParams:
    bodies.refuse_unsupported(body, NEUTRAL)
    openai.check_stream_options(body)
    if body.stream and body.best_of not in (None, body.n or 1):
        raise RequestError(
            f"best_of={body.best_of} with stream=true: which are the best is known only at the end; make it n",
            param="best_of",
        )
    if body.echo and body.logprobs is not None:
        raise RequestError("echo with logprobs is not supported: prompt logprobs are not computed", param="echo")
    values = openai.sampling_values(body, max_tokens=body.max_tokens, logprobs=body.logprobs)
    return service.params(values | {"best_of": body.best_of})


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    """One or more prompts from any of the four forms."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(item) for item in prompt}
    if not prompt or len(kinds) > 1:
        raise RequestError(
            "prompt must be a text, token ids, or a list of either; it must not be empty", param="prompt"
        )
    return [prompt] if kinds == {int} else prompt  # type: ignore[list-item, return-value]  # kinds says so


async def _encoded(service: Service, body: CompletionBody, prompts: list[str | list[int]]) -> list[list[int]]:
    """Token ids of each prompt."""
    adds, characters = body.add_special_tokens is not False, sum(map(len, prompts))

    def encode() -> list[list[int]]:
        return [
            prompt if isinstance(prompt, list) else service.need_tokenizer().encode(prompt, add_special_tokens=adds)
            for prompt in prompts
        ]

    return await service.aside(encode, characters)


def _echo(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.need_tokenizer().decode(prompt)


def _completion(
    service: Service,
    body: CompletionBody,
    params: SamplingParams,
    generation: Generation,
    answers: list[Update],
    echoes: list[str],
) -> Completion:
    count = UsageCount(generation.requests)
    for sample, answer in enumerate(answers):
        count.note(sample, answer)
    choices = []
    for choice, sample in enumerate(_chosen(answers, params)):
        request, answer, echo = generation.requests[sample], answers[sample], echoes[sample]
        assert answer.finish_reason is not None, "whole answers have ended"
        logprobs = None if body.logprobs is None else _logprobs_of(service, body, echo).of(answer.tokens)
        choices.append(
            CompletionChoice(
                choice, echo + answer.text, logprobs, FINISH[answer.finish_reason], answer.stop_reason(request)
            )
        )
    return Completion(
        id=openai.answer_id("cmpl"),
        created=int(time.time()),
        model=service.model_name,
        choices=choices,
        usage=count.usage(),
    )


def _chosen(answers: list[Update], params: SamplingParams) -> list[int]:
    """Which of the samples of all prompts are the answer, prompt by prompt."""
    each = params.num_samples
    return [
        first + sample
        for first in range(0, len(answers), each)
        for sample in best_of.chosen(answers[first : first + each], params)
    ]


def _logprobs_of(service: Service, body: CompletionBody, echo: str) -> CompletionForm:
    return CompletionForm(service, start=len(echo), skip_special_tokens=body.skip_special_tokens is not False)


class CompletionStream:
    """Chunks of one completion, put together from ready-made bytes around the text."""

    def __init__(self, service: Service, body: CompletionBody, generation: Generation, echoes: list[str]):
        self.needs_tokens = body.logprobs is not None
        self._generation, self._echoes = generation, echoes
        self._tail = UsageTail(UsageCount(generation.requests), body)
        self._logprobs = [_logprobs_of(service, body, echo) for echo in echoes] if self.needs_tokens else []
        self._head = (
            f'data: {{"id":"{openai.answer_id("cmpl")}","object":"text_completion",'
            f'"created":{int(time.time())},"model":{json(service.model_name).decode()},"choices":['
        ).encode()
        self._heads = [b'%s{"index":%d,"text":' % (self._head, choice) for choice in range(len(echoes))]

    def event(self, choice: int, update: Update) -> bytes:
        self._tail.count.note(choice, update)
        text, self._echoes[choice] = self._echoes[choice] + update.text, ""
        chosen = b"null"
        if self.needs_tokens and len(update.tokens):
            chosen = json(self._logprobs[choice].of(update.tokens))
        finish = b"null"
        if update.finish_reason is not None:
            reason = json(update.stop_reason(self._generation.requests[choice]))
            finish = b'"%s","stop_reason":%s' % (FINISH[update.finish_reason].encode(), reason)
        elif not text and chosen == b"null":
            return b""
        return b'%s%s,"logprobs":%s,"finish_reason":%s}]%s' % (
            self._heads[choice], json(text), chosen, finish, self._tail.tail(),
        )  # fmt: skip

    def end(self) -> bytes:
        if not self._tail.is_asked:
            return DONE
        return b'%s],"usage":%s}\n\n' % (self._head, json(self._tail.count.usage())) + DONE
