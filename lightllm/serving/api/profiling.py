"""POST /start_profile and /stop_profile: a trace of the steps between them, of every rank."""

import asyncio

import msgspec
from fastapi import APIRouter, Response

from lightllm.base.errors import RequestError
from lightllm.base.messages import Profiled
from lightllm.serving.api.documents import described
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service


class Traces(msgspec.Struct, frozen=True):
    """The files that were written, in the folder --profile_dir of the server."""

    files: list[str]


def router(service: Service) -> APIRouter:
    routes = APIRouter()

    @routes.post("/start_profile", **described(None, Traces))
    async def start_profile() -> Response:
        """Starts a trace of all ranks. Needs --profile_dir."""
        return await _order(service, starts=True)

    @routes.post("/stop_profile", **described(None, Traces))
    async def stop_profile() -> Response:
        """Stops the trace; answers when it is written. The model waits for that."""
        return await _order(service, starts=False)

    return routes


async def _order(service: Service, *, starts: bool) -> Response:
    """Raises RequestError with what the ranks have against it."""
    done: asyncio.Future[Profiled] = asyncio.get_running_loop().create_future()

    def tell(answer: Profiled) -> None:
        if not done.done():  # else the client has left
            done.set_result(answer)

    service.client.profile(starts=starts, on_done=tell)
    answer = await done
    if answer.failure:
        raise RequestError(answer.failure, status=409)
    return Response(json(Traces(answer.files)), media_type="application/json")
