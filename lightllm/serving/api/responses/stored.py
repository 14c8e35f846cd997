"""Stored responses: retrieved, streamed again, deleted, cancelled, and their input items, from every api process."""

from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api import queries
from lightllm.serving.api.documents import described
from lightllm.serving.api.kept import archive_of, as_json, caller_of
from lightllm.serving.api.openai import json
from lightllm.serving.api.queries import PAGED, Query
from lightllm.serving.api.responses.answer import ResponseObject
from lightllm.serving.api.responses.events import ResponseEvent
from lightllm.serving.api.responses.writing import FollowedStream
from lightllm.serving.api.service import Service
from lightllm.serving.archive.frames import Stored

_ID = "/v1/responses/{id}"


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
        **queries.described_with(
            described(None, ResponseObject, streams=ResponseEvent), stream="boolean", starting_after="integer"
        ),
    )
    async def retrieve(request: Request, id: str) -> Response:
        """A stored response. With stream=true: its events, those that are still to come too, after `starting_after`."""
        query = Query(request, "stream", "starting_after", "include", "include[]", "include_obfuscation")
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
        **queries.described_with(described(None, ItemList), **PAGED),
    )
    async def input_items(request: Request, id: str) -> Response:
        """What a stored response answers, item by item; the latest come first, unless order=asc."""
        query = Query(request, *PAGED, "include", "include[]")
        found = msgspec.json.decode((await _stored(service, request, id)).items)
        page, has_more = query.page(found, descending=True)
        first, last = (page[0]["id"], page[-1]["id"]) if page else ("", "")
        return as_json(json(ItemList(data=page, first_id=first, last_id=last, has_more=has_more)))


async def _stored(service: Service, request: Request, id: str) -> Stored:
    if (stored := await archive_of(service).get(id, caller_of(request))) is None:
        raise _missing(id)
    return stored


async def followed(service: Service, request: Request, id: str, start: int) -> Response:
    if (events := await archive_of(service).follow(id, caller_of(request), start)) is None:
        raise _missing(id)
    return FollowedStream(events)


def _missing(id: str) -> RequestError:
    return RequestError(f"there is no response {id[:100]!r}: it was not stored, or is gone by now", status=404)
