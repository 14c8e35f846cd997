"""POST /v1/chat/completions."""

import time
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving.api import body as bodies
from lightllm.serving.api import logprobs, messages, openai, terms
from lightllm.serving.api.body import GenerationBody, Int
from lightllm.serving.api.documents import described
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.openai import DONE, FINISH, Usage, UsageCount, UsageTail, json
from lightllm.serving.api.service import Service
from lightllm.serving.records import Update

NEUTRAL: dict[str, tuple[object, ...]] = bodies.NEUTRAL | {
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "verbosity": ("medium",),
    "echo": (False,),
}


class ChatBody(GenerationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A conversation to continue. max_completion_tokens is max_tokens by its new name."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    # Refused unless they say nothing, see NEUTRAL
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    verbosity: Any = None
    echo: Any = None


class AnswerMessage(msgspec.Struct, kw_only=True, frozen=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: str | None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """`stop_reason` is the stop string or stop token that ended the answer; null for an eos token."""

    index: int
    message: AnswerMessage
    logprobs: logprobs.ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None


class ChatCompletion(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


_decoder = msgspec.json.Decoder(ChatBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/v1/chat/completions", **described(ChatBody, ChatCompletion, streams=True))
    async def chat_completions(request: Request) -> Response:
        """Continues a conversation. With stream=true: chunks as server-sent events, then `[DONE]`."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        service.check_model(body.model)
        params = _params(service, body)
        prompt = await _prompt(service, body)
        generation = Generation(service.client, terms.of(service, request, body), until_end=not body.stream)
        generation.submit(prompt, params)
        if body.stream:
            return EventStream(generation, ChatStream(service, body, generation))
        answers = await generation.whole(request.receive, with_tokens=bool(body.logprobs))
        return Response(json(_completion(service, body, generation, answers)), media_type="application/json")

    return routes


def _params(service: Service, body: ChatBody) -> SamplingParams:
    bodies.refuse_unsupported(body, NEUTRAL)
    openai.check_stream_options(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs=true", param="top_logprobs")
    given = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(given) > 1:
        raise RequestError(
            f"max_tokens={body.max_tokens} and max_completion_tokens={body.max_completion_tokens} disagree; give one",
            param="max_completion_tokens",
        )
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= 20:
        raise RequestError(f"top_logprobs={body.top_logprobs} is not allowed; use 0 to 20", param="top_logprobs")
    most = (body.top_logprobs or 0) if body.logprobs else None
    return service.params(openai.sampling_values(body, max_tokens=next(iter(given), None), logprobs=most))


async def _prompt(service: Service, body: ChatBody) -> list[int]:
    """Token ids of the conversation, rendered with the model's template."""
    if body.continue_final_message and body.add_generation_prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude one another", param="continue_final_message"
        )
    template, tokenizer = service.need_template(), service.need_tokenizer()
    conversation = messages.prepared(body.messages)
    tools = messages.prepared_tools(body.tools) if body.tool_choice != "none" else None
    continues = bool(body.continue_final_message)
    begins_answer = not continues if body.add_generation_prompt is None else body.add_generation_prompt
    effort = {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}

    def render() -> list[int]:
        text = template.render(
            conversation,
            tools=tools,
            add_generation_prompt=begins_answer,
            continue_final_message=continues,
            variables=effort | (body.chat_template_kwargs or {}),
        )
        # A template writes special tokens itself, unless the client knows that this one does not.
        return tokenizer.encode(text, add_special_tokens=bool(body.add_special_tokens))

    return await service.aside(render, messages.num_characters(conversation))


def _completion(service: Service, body: ChatBody, generation: Generation, answers: list[Update]) -> ChatCompletion:
    count = UsageCount(generation.requests)
    choices = []
    for choice, (request, answer) in enumerate(zip(generation.requests, answers, strict=True)):
        assert answer.finish_reason is not None, "whole answers have ended"
        count.note(choice, answer)
        choices.append(
            ChatChoice(
                choice,
                AnswerMessage(content=answer.text),
                logprobs.for_chat(service, answer.tokens) if body.logprobs else None,
                FINISH[answer.finish_reason],
                answer.stop_reason(request),
            )
        )
    return ChatCompletion(
        id=openai.answer_id("chatcmpl"),
        created=int(time.time()),
        model=service.model_name,
        choices=choices,
        usage=count.usage(),
    )


class ChatStream:
    """Chunks of one chat, put together from ready-made bytes around the text."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation):
        self.needs_tokens = bool(body.logprobs)
        self._service, self._generation = service, generation
        self._tail = UsageTail(UsageCount(generation.requests), body)
        head = (
            f'data: {{"id":"{openai.answer_id("chatcmpl")}","object":"chat.completion.chunk",'
            f'"created":{int(time.time())},"model":{json(service.model_name).decode()},"choices":['
        ).encode()
        self._head = head
        self._heads = [b'%s{"index":%d,"delta":' % (head, choice) for choice in range(len(generation.requests))]
        self._has_begun = [False] * len(generation.requests)

    def event(self, choice: int, update: Update) -> bytes:
        self._tail.count.note(choice, update)
        begin = b"" if self._has_begun[choice] else self._begin(choice)
        chosen = b"null"
        if self.needs_tokens and len(update.tokens):
            chosen = json(logprobs.for_chat(self._service, update.tokens))
        finish = b"null"
        if update.finish_reason is not None:
            reason = json(update.stop_reason(self._generation.requests[choice]))
            finish = b'"%s","stop_reason":%s' % (FINISH[update.finish_reason].encode(), reason)
        elif not update.text and chosen == b"null":
            return begin
        delta = b'{"content":%s}' % json(update.text)
        return begin + self._chunk(choice, delta, chosen, finish)

    def _begin(self, choice: int) -> bytes:
        self._has_begun[choice] = True
        return self._chunk(choice, b'{"role":"assistant","content":""}', b"null", b"null")

    def _chunk(self, choice: int, delta: bytes, chosen: bytes, finish: bytes) -> bytes:
        return b'%s%s,"logprobs":%s,"finish_reason":%s}]%s' % (
            self._heads[choice], delta, chosen, finish, self._tail.tail(),
        )  # fmt: skip

    def end(self) -> bytes:
        if not self._tail.is_asked:
            return DONE
        return b'%s],"usage":%s}\n\n' % (self._head, json(self._tail.count.usage())) + DONE
