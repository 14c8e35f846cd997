"""POST /tokenize, /detokenize: text, or a conversation, to token ids and back, in the form that vLLM gave them."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api import openai_chat
from lightllm.serving.api.body import Int
from lightllm.serving.api.documents import described
from lightllm.serving.api.openai import json
from lightllm.serving.api.openai_chat import ChatBody
from lightllm.serving.api.service import Service

_CHAT_FIELDS = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs", "reasoning_effort")


class TokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A text, or messages as /v1/chat/completions takes them and as the model would see them."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None  # by default with a text only
    return_token_strs: bool | None = None
    # With messages only
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class Tokenized(msgspec.Struct, frozen=True):
    """`max_model_len`: longest prompt plus output. `token_strs`: the tokens as people read them, if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Token ids, special ones included."""

    model: str | None = None
    tokens: list[Int]


class Detokenized(msgspec.Struct, frozen=True):
    prompt: str


_tokenize_decoder = msgspec.json.Decoder(TokenizeBody)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeBody)


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/tokenize", **described(TokenizeBody, Tokenized))
    async def tokenize(request: Request) -> Response:
        """The token ids of a text or of a conversation."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _tokenize_decoder)
        service.check_model(body.model)
        tokens = await _tokens(service, body)
        strings = [service.token_text(token) for token in tokens] if body.return_token_strs else None
        answer = Tokenized(len(tokens), service.max_model_len, tokens, strings)
        return Response(json(answer), media_type="application/json")

    @routes.post("/detokenize", **described(DetokenizeBody, Detokenized))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _detokenize_decoder)
        service.check_model(body.model)
        most = service.client.vocab_size - 1
        if wrong := [token for token in body.tokens if not 0 <= token <= most]:
            raise RequestError(f"token id {wrong[0]} is not in the vocabulary; use 0 to {most}", param="tokens")
        tokenizer = service.need_tokenizer()
        text = await service.aside(lambda: tokenizer.decode(body.tokens), len(body.tokens))
        return Response(json(Detokenized(text)), media_type="application/json")

    return routes


async def _tokens(service: Service, body: TokenizeBody) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("give either prompt or messages", param="prompt")
    if body.prompt is not None:
        if given := [name for name in _CHAT_FIELDS if getattr(body, name) is not None]:
            raise RequestError(f"{given[0]} needs messages; with a prompt leave it out", param=given[0])
        return await service.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
    fields = {name: getattr(body, name) for name in _CHAT_FIELDS}
    chat = ChatBody(messages=body.messages or [], add_special_tokens=body.add_special_tokens, **fields)
    return (await openai_chat.prompt_of(service, chat, openai_chat.parsing_of(service, chat))).tokens
