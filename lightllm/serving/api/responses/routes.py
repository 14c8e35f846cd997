"""POST /v1/responses: OpenAI's Responses API."""

import asyncio
from typing import Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai_chat
from lightllm.serving.api.documents import described
from lightllm.serving.api.errors import Dialect, envelope
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.kept import archive_of, as_json, caller_of
from lightllm.serving.api.openai import json
from lightllm.serving.api.responses import items, stored
from lightllm.serving.api.responses.answer import Answer, ResponseObject, new_response
from lightllm.serving.api.responses.body import (
    INPUT_TOKENS_NEUTRAL,
    NEUTRAL,
    PROMPT_FIELDS,
    InputTokensBody,
    ResponsesBody,
    check,
)
from lightllm.serving.api.responses.conversation import chat_of
from lightllm.serving.api.responses.events import ResponseEvent
from lightllm.serving.api.responses.writing import ResponseForm, Writing
from lightllm.serving.api.service import Service

_NAMES = {
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "verbosity": "text.verbosity",
}
_DIALECT = Dialect(envelope, names=_NAMES)
DIALECTS = dict.fromkeys(("/v1/responses", "/v1/responses/input_tokens"), _DIALECT)
_decoder = msgspec.json.Decoder(ResponsesBody)
_input_tokens_decoder = msgspec.json.Decoder(InputTokensBody)


class InputTokens(msgspec.Struct, kw_only=True, frozen=True):
    """How long the prompt is."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    background: set[asyncio.Task[None]] = set()

    @routes.post("/v1/responses", **described(ResponsesBody, ResponseObject, streams=ResponseEvent))
    async def create(request: Request) -> Response:
        """Answers a conversation. With stream=true: events of the Responses API."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        check(body)
        bodies.refuse_unsupported(body, NEUTRAL)
        conversation = [*await _before(service, request, body), *items.checked(body.input)]
        at_end = not (body.stream or body.background)
        chat_body = await chat_of(service, body, conversation)
        chat = await openai_chat.begun(service, request, chat_body, until_end=at_end)
        answer = Answer(service, body, new_response(service, body), chat.readers[0])
        kept_in = None if body.store is False else service.archive
        writing = Writing(answer, chat, kept_in, caller_of(request), conversation)
        if body.background:
            queued = json(answer.response)
            task = await writing.begin_aside()
            background.add(task)
            task.add_done_callback(background.discard)
            if body.stream:
                return await stored.followed(service, request, answer.response.id, 0)
            return as_json(queued)
        if body.stream:
            form = ResponseForm(writing, chat.generation, needs_tokens=chat.needs_tokens)
            return EventStream(chat.generation, form, before_end=form.before_end)
        return as_json(await writing.whole(request.receive))

    @routes.post("/v1/responses/input_tokens", **described(InputTokensBody, InputTokens))
    async def input_tokens(request: Request) -> Response:
        """How many tokens the model would see of a conversation."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _input_tokens_decoder)
        bodies.refuse_unsupported(body, INPUT_TOKENS_NEUTRAL)
        asked = ResponsesBody(input=body.input or [], **{name: getattr(body, name) for name in PROMPT_FIELDS})
        check(asked)
        service.check_model(asked.model)
        chat = await chat_of(service, asked, [*await _before(service, request, asked), *items.checked(asked.input)])
        prompt = await openai_chat.prompt_of(service, chat, openai_chat.parsing_of(service, chat))
        return as_json(json(InputTokens(input_tokens=len(prompt.tokens))))

    stored.add(routes, service)
    return routes


async def _before(service: Service, request: Request, body: ResponsesBody) -> list[items.Item]:
    """The items of the response that is gone on from, and of its answer."""
    if body.previous_response_id is None:
        return []
    found = await archive_of(service).get(body.previous_response_id, caller_of(request))
    if found is None:
        raise RequestError(
            f"there is no response {body.previous_response_id[:100]!r}: it was not stored, or is gone by now; send the "
            "whole conversation as input",
            param="previous_response_id",
        )
    response = msgspec.json.decode(found.response)
    if response["status"] in ("queued", "in_progress"):
        raise RequestError("that response has not ended yet; wait for its end", param="previous_response_id")
    return [*msgspec.json.decode(found.items), *response["output"]]
