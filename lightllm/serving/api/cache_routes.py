"""POST /flush_cache: the prefix cache, emptied; for who measures what it is worth."""

import asyncio

import msgspec
from fastapi import APIRouter, Response

from lightllm.base.errors import RequestError
from lightllm.serving.api.documents import described
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service


class FlushedCache(msgspec.Struct, frozen=True):
    """How many tokens were forgotten: all but those of requests that run."""

    tokens: int


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    async def flush_cache() -> Response:
        """Forgets all prefixes of earlier requests. What running requests use stays."""
        done: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def tell(tokens: int | None) -> None:
            if not done.done():  # else the client has left
                done.set_result(tokens)

        service.client.flush_cache(tell)
        if (tokens := await done) is None:
            raise RequestError("the engine has failed; try again later", status=503)
        return Response(json(FlushedCache(tokens)), media_type="application/json")

    routes.post("/flush_cache", **described(None, FlushedCache))(flush_cache)
    routes.post("/reset_prefix_cache", include_in_schema=False)(flush_cache)  # its name with other servers
    return routes
