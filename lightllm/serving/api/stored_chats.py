"""Chats that were asked for with store=true: retrieved, listed, labelled, deleted, from every api process.

They are where stored responses are.
"""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api import queries
from lightllm.serving.api.body import Metadata
from lightllm.serving.api.chat_answers import ChatCompletion
from lightllm.serving.api.documents import described
from lightllm.serving.api.kept import archive_of, as_json, caller_of
from lightllm.serving.api.openai import json
from lightllm.serving.api.queries import PAGED, Query
from lightllm.serving.api.service import Service
from lightllm.serving.archive.frames import Find, Put, Relabel, Stored

_PATH = "/v1/chat/completions"
_ID = _PATH + "/{id}"


class MetadataBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What takes the place of the metadata that a stored chat has."""

    metadata: Metadata | None


class DeletedChat(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: bool = True


class ChatList(msgspec.Struct, kw_only=True, frozen=True):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


_decoder = msgspec.json.Decoder(MetadataBody)


async def keep(service: Service, request: Request, answer: ChatCompletion, messages: list[dict[str, Any]]) -> None:
    """Stores an answer, and what it answers."""
    whole = json(answer)
    labels = _labels(answer.model, answer.metadata or {})
    await archive_of(service).put(Put(answer.id, _caller_of(request), whole, json(messages), [], labels=labels))


def _labels(model: str, metadata: dict[str, str]) -> dict[str, str]:
    """By which a chat is found: as the query words it."""
    return {"model": model} | {f"metadata[{name}]": value for name, value in metadata.items()}


def add(routes: APIRouter, service: Service) -> None:
    """The routes of stored chats."""

    @routes.get(_ID, **described(None, ChatCompletion))
    async def retrieve(request: Request, id: str) -> Response:
        """A chat that was stored."""
        return as_json((await _stored(service, request, id)).response)

    @routes.post(_ID, **described(MetadataBody, ChatCompletion))
    async def update(request: Request, id: str) -> Response:
        """Gives a stored chat other metadata."""
        body = bodies.decode(await bodies.read(request, service.config.max_request_bytes), _decoder)
        chat: dict[str, Any] = msgspec.json.decode((await _stored(service, request, id)).response)
        chat["metadata"] = body.metadata or {}
        response, labels = json(chat), _labels(chat["model"], chat["metadata"])
        if not await archive_of(service).relabel(Relabel(id, _caller_of(request), response, labels)):
            raise _missing(id)
        return as_json(response)

    @routes.delete(_ID, **described(None, DeletedChat))
    async def delete(request: Request, id: str) -> Response:
        """Forgets a stored chat."""
        if not await archive_of(service).delete(id, _caller_of(request)):
            raise _missing(id)
        return as_json(json(DeletedChat(id=id)))

    _add_lists(routes, service)


def _add_lists(routes: APIRouter, service: Service) -> None:
    @routes.get(_PATH, **queries.described_with(described(None, ChatList), metadata="object", model="string", **PAGED))
    async def find(request: Request) -> Response:
        """Stored chats, the oldest first unless order=desc; those of a model and with metadata[KEY]=VALUE, if given."""
        query = Query(request, "model", *PAGED, has_metadata=True)
        model = query.text("model")
        asked = Find(
            _caller_of(request),
            query.metadata | ({} if model is None else {"model": model}),
            query.text("after"),
            query.limit(),
            newest_first=query.is_descending(default=False),
        )
        if (found := await archive_of(service).find(asked)) is None:
            raise RequestError(f"after={(asked.after or '')[:100]!r} is none of these chats", param="after")
        return as_json(json(_list([msgspec.json.decode(one) for one in found.responses], has_more=found.has_more)))

    @routes.get(_ID + "/messages", **queries.described_with(described(None, ChatList), **PAGED))
    async def messages(request: Request, id: str) -> Response:
        """The messages that a stored chat answers, the first one first unless order=desc."""
        query = Query(request, *PAGED)
        given = msgspec.json.decode((await _stored(service, request, id)).items)
        page, has_more = query.page([_message(one, f"{id}-{i}") for i, one in enumerate(given)], descending=False)
        return as_json(json(_list(page, has_more=has_more)))


def _message(message: dict[str, Any], id: str) -> dict[str, Any]:
    """Content is a text; where it came in parts these are there, too."""
    content = message.get("content")
    if not isinstance(content, list):
        return message | {"id": id}
    texts = [part[part["type"]] for part in content]
    return message | {"id": id, "content": "\n".join(texts), "content_parts": content}


def _list(data: list[dict[str, Any]], *, has_more: bool) -> ChatList:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return ChatList(data=data, first_id=first, last_id=last, has_more=has_more)


async def _stored(service: Service, request: Request, id: str) -> Stored:
    if (stored := await archive_of(service).get(id, _caller_of(request))) is None:
        raise _missing(id)
    return stored


def _caller_of(request: Request) -> int:
    """Whose chats these are, as with responses. Below zero, so that neither is found among the other."""
    return -1 - caller_of(request)


def _missing(id: str) -> RequestError:
    return RequestError(f"there is no chat {id[:100]!r}: it was not stored, or is gone by now", status=404)
