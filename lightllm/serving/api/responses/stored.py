"""Stored responses: retrieved, streamed again, deleted, cancelled, and their input items, from every api process."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api.documents import described
from lightllm.serving.api.openai import json
from lightllm.serving.api.responses.answer import ResponseObject
from lightllm.serving.api.responses.events import ResponseEvent
from lightllm.serving.api.responses.items import Item
from lightllm.serving.api.responses.writing import FollowedStream
from lightllm.serving.api.service import Service
from lightllm.serving.archive.client import ArchiveClient
from lightllm.serving.archive.frames import Stored

_ID = "/v1/responses/{id}"
_MOST_ITEMS = 100


class DeletedResponse(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


class ItemList(msgspec.Struct, kw_only=True, frozen=True):
    """Input items; those of the responses before it too, where it goes on from one."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


def add(routes: APIRouter, service: Service) -> None:
    """The routes of one stored response."""

    @routes.get(
        _ID,
        **_with_query(
            described(None, ResponseObject, streams=ResponseEvent), stream="boolean", starting_after="integer"
        ),
    )
    async def retrieve(request: Request, id: str) -> Response:
        """A stored response. With stream=true: its events, those that are still to come too, after `starting_after`."""
        query = _Query(request, "stream", "starting_after", "include", "include[]", "include_obfuscation")
        after = query.integer("starting_after", default=-1, least=-1, most=2**31)
        if query.flag("include_obfuscation"):
            raise RequestError("include_obfuscation is not supported; leave it out", param="include_obfuscation")
        if query.flag("stream"):
            return await followed(service, request, id, after + 1)
        if after >= 0:
            raise RequestError("starting_after needs stream=true", param="starting_after")
        return as_json((await _stored(service, request, id)).response)

    @routes.delete(_ID, **described(None, DeletedResponse))
    async def delete(request: Request, id: str) -> Response:
        """Forgets a stored response; one that is still written in the background ends."""
        if not await archive_of(service).delete(id, caller_of(request)):
            raise _missing(id)
        return as_json(json(DeletedResponse(id=id)))

    @routes.post(f"{_ID}/cancel", **described(None, ResponseObject))
    async def cancel(request: Request, id: str) -> Response:
        """Ends a response that is written in the background; one that has ended stays as it is."""
        stored = await _stored(service, request, id)
        if not msgspec.json.decode(stored.response)["background"]:
            raise RequestError("only responses with background=true can be cancelled; close the connection instead")
        cancelled = await archive_of(service).cancel(id, caller_of(request))
        if cancelled is None:
            raise _missing(id)
        return as_json(cancelled.response)

    _add_input_items(routes, service)


def _add_input_items(routes: APIRouter, service: Service) -> None:
    @routes.get(
        f"{_ID}/input_items",
        **_with_query(described(None, ItemList), limit="integer", order="string", after="string"),
    )
    async def input_items(request: Request, id: str) -> Response:
        """What a stored response answers, item by item; the latest come first, unless order=asc."""
        query = _Query(request, "limit", "order", "after", "include", "include[]")
        limit = query.integer("limit", default=20, least=1, most=_MOST_ITEMS)
        found = msgspec.json.decode((await _stored(service, request, id)).items)
        return as_json(json(_page(found, limit, query.text("order") or "desc", query.text("after"))))


async def _stored(service: Service, request: Request, id: str) -> Stored:
    if (stored := await archive_of(service).get(id, caller_of(request))) is None:
        raise _missing(id)
    return stored


async def followed(service: Service, request: Request, id: str, start: int) -> Response:
    if (events := await archive_of(service).follow(id, caller_of(request), start)) is None:
        raise _missing(id)
    return FollowedStream(events)


def archive_of(service: Service) -> ArchiveClient:
    assert service.archive is not None, "api processes have one"
    return service.archive


def caller_of(request: Request) -> int:
    """Whose responses these are: those of one name of an API key, or everyone's on a server without keys."""
    return request.state.caller.salt if request.state.caller else 0


def _missing(id: str) -> RequestError:
    return RequestError(f"there is no response {id[:100]!r}: it was not stored, or is gone by now", status=404)


def as_json(data: bytes) -> Response:
    return Response(data, media_type="application/json")


def _page(found: list[Item], limit: int, order: str, after: str | None) -> ItemList:
    if order not in ("asc", "desc"):
        raise RequestError(f"order={order[:100]!r} is not allowed; use asc or desc", param="order")
    listed = found if order == "asc" else found[::-1]
    if after is not None:
        at = next((i for i, item in enumerate(listed) if item["id"] == after), None)
        if at is None:
            raise RequestError(f"after={after[:100]!r} is none of these items", param="after")
        listed = listed[at + 1 :]
    page = listed[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
    return ItemList(data=page, first_id=first, last_id=last, has_more=len(listed) > limit)


class _Query:
    """What stands after the question mark. Raises RequestError for what is unknown or wrong."""

    def __init__(self, request: Request, *known: str):
        self._values = request.query_params
        for name in self._values:
            if name not in known:
                raise RequestError(f"unknown parameter {name[:100]!r}; leave it out", param=name[:100])

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        value = self._values.get(name, "false").lower()
        if value not in ("true", "false"):
            raise RequestError(f"{name}={value[:100]!r} is not allowed; use true or false", param=name)
        return value == "true"

    def integer(self, name: str, *, default: int, least: int, most: int) -> int:
        if (text := self._values.get(name)) is None:
            return default
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else least - 1
        if not least <= value <= most:
            raise RequestError(f"{name}={text[:100]!r} is not allowed; use {max(0, least)} to {most}", param=name)
        return value


def _with_query(described_route: dict[str, Any], **types: str) -> dict[str, Any]:
    """The documentation of a route with that of the parameters after its question mark."""
    listed = [
        {"name": name, "in": "query", "required": False, "schema": {"type": kind}} for name, kind in types.items()
    ]
    extra = {**described_route["openapi_extra"], "parameters": listed}
    return described_route | {"openapi_extra": extra}
