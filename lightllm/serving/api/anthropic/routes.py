"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages API."""

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai_chat
from lightllm.serving.api.anthropic.answers import MessageAnswer, MessageStream, TokensCounted, whole
from lightllm.serving.api.anthropic.body import COUNT_NEUTRAL, NEUTRAL, CountTokensBody, MessagesBody
from lightllm.serving.api.anthropic.conversation import chat_of
from lightllm.serving.api.anthropic.events import MessageEvent
from lightllm.serving.api.anthropic.wording import DIALECT, AnthropicError
from lightllm.serving.api.documents import described
from lightllm.serving.api.errors import Dialect
from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service

# What they tell apart does not concern this server; parameters that the newer one has dropped work with both.
_VERSIONS = ("2026-10-21", "2023-06-01")
_MESSAGES, _COUNT = "/v1/messages", "/v1/messages/count_tokens"
DIALECTS: dict[str, Dialect] = {_MESSAGES: DIALECT, _COUNT: DIALECT}
_decoder = msgspec.json.Decoder(MessagesBody)
_count_decoder = msgspec.json.Decoder(CountTokensBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post(_MESSAGES, **described(MessagesBody, MessageAnswer, streams=MessageEvent, error=AnthropicError))
    async def messages(request: Request) -> Response:
        """Continues a conversation. With stream=true: events of the Messages API."""
        _check_version(request)
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        bodies.refuse_unsupported(body, NEUTRAL)
        chat = chat_of(service, body)
        generation, [reader], needs_tokens, _ = await openai_chat.begun(
            service, request, chat, until_end=not body.stream
        )
        [asked] = generation.requests
        if body.stream:
            return EventStream(generation, MessageStream(service, asked, reader, needs_tokens=needs_tokens))
        [answer] = await generation.whole(request.receive, with_tokens=needs_tokens)
        return Response(json(whole(service, asked, reader, answer)), media_type="application/json")

    @routes.post(_COUNT, **described(CountTokensBody, TokensCounted, error=AnthropicError))
    async def count_tokens(request: Request) -> Response:
        """How many tokens the model would see of a conversation."""
        _check_version(request)
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _count_decoder)
        service.check_model(body.model)
        bodies.refuse_unsupported(body, COUNT_NEUTRAL)
        chat = chat_of(service, body)
        prompt = await openai_chat.prompt_of(service, chat, openai_chat.parsing_of(service, chat))
        return Response(json(TokensCounted(len(prompt.tokens))), media_type="application/json")

    return routes


def _check_version(request: Request) -> None:
    version = request.headers.get("anthropic-version", _VERSIONS[0])
    if version not in _VERSIONS:
        allowed = " or ".join(_VERSIONS)
        raise RequestError(f"anthropic-version: {version} is not served; send {allowed}, or leave the header out")
