"""POST /v1/responses: OpenAI's Responses API."""

import asyncio

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai_chat
from lightllm.serving.api.documents import described
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.kept import archive_of, as_json, caller_of
from lightllm.serving.api.openai import json
from lightllm.serving.api.responses import items, stored
from lightllm.serving.api.responses.answer import Answer, ResponseObject, new_response
from lightllm.serving.api.responses.body import NEUTRAL, ResponsesBody, check
from lightllm.serving.api.responses.conversation import chat_of
from lightllm.serving.api.responses.events import ResponseEvent
from lightllm.serving.api.responses.writing import ResponseForm, Writing
from lightllm.serving.api.service import Service

_decoder = msgspec.json.Decoder(ResponsesBody)


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
