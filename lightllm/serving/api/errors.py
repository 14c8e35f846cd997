"""Errors over HTTP, worded as the API does to which a route belongs.

Unless a route is another API's: OpenAI's envelope, {"error": {"message", "type", "param", "code"}}.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from lightllm.base import log
from lightllm.base.errors import RequestError
from lightllm.base.metrics import Metrics
from lightllm.serving.api.generation import ClientLeftError, UnfinishedError
from lightllm.serving.api.printable import printable

LONGEST_MESSAGE = 1000  # characters: whatever was sent, the answer stays small
_RETRY_AFTER_S = (1, 600)  # least and most: whole seconds, and nobody should wait for a prediction for hours
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    409: "conflict_error",
    413: "request_too_large_error",
    429: "rate_limit_error",
    500: "internal_server_error",
    503: "service_unavailable_error",
}
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_log = log.get(__name__)


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong: what was given, what is allowed, what to do."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(msgspec.Struct, frozen=True):
    error: ErrorBody


@dataclass(frozen=True)
class Problem:
    """An error to be told. Its texts are fit to be shown."""

    status: int
    message: str
    param: str | None = None
    request_id: str = ""


@dataclass(frozen=True)
class Dialect:
    """How an API words an error, the header in which it names a request, and its names for fields of chats."""

    error: Callable[[Problem], msgspec.Struct]
    id_header: bytes = b"x-request-id"
    names: Mapping[str, str] = field(default_factory=dict)

    def encoded(self, problem: Problem) -> bytes:
        """The JSON of an error."""
        return msgspec.json.encode(self.error(self._renamed(problem) if self.names else problem))

    def _renamed(self, problem: Problem) -> Problem:
        first, *rest = re.split(r"(?=[.\[])", problem.param or "", maxsplit=1)
        param = "".join([self.names.get(first, first), *rest]) or None
        pattern = "|".join(_mention(name) for name in sorted(self.names, key=len, reverse=True))
        message = re.sub(pattern, lambda found: self.names[found[0]], problem.message)
        return replace(problem, message=message, param=param)


def _mention(name: str) -> str:
    """A pattern of the field's name in a message. A name that is a word counts only where no word could stand."""
    end = r"\b" if "_" in name else r"(?=[=.\[]\S| is not supported)"
    return rf"(?<![\w.'-]){re.escape(name)}{end}"


def envelope(problem: Problem) -> ErrorEnvelope:
    """The error in OpenAI's words."""
    status, param = problem.status, problem.param
    code = {(404, "model"): "model_not_found", (401, None): "invalid_api_key"}.get((status, param))
    return ErrorEnvelope(ErrorBody(problem.message, _TYPES.get(status, "error"), param, code))


OPENAI = Dialect(envelope)


def encoded(status: int, message: str, *, dialect: Dialect = OPENAI) -> bytes:
    """The JSON of an error."""
    return dialect.encoded(Problem(status, printable(message, LONGEST_MESSAGE)))


def event(status: int, message: str) -> bytes:
    """The error as the last event of a stream of OpenAI's."""
    return b"data: %s\n\n" % encoded(status, message)


def response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    retry_after_s: float | None = None,
    scope: Scope | None = None,
) -> Response:
    """An error as a whole response to the request of `scope`, in its route's dialect.

    With 429 and 503 it says when to try again, with 401 how to prove who one is.
    """
    least, most = _RETRY_AFTER_S
    seconds = min(max(least, math.ceil(retry_after_s or 0)), most)
    retry = {"retry-after": str(seconds)}
    headers = {429: retry, 503: retry, 401: {"www-authenticate": "Bearer"}}.get(status)
    state = scope["state"] if scope else {}
    problem = Problem(
        status, printable(message, LONGEST_MESSAGE), param and printable(param, 100), state.get("request_id", "")
    )
    dialect: Dialect = state.get("dialect", OPENAI)
    return Response(dialect.encoded(problem), status, headers, media_type="application/json")


def _methods_of(request: Request) -> list[str]:
    """With which of all methods there is a route for the path of a request."""

    def is_served(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in _METHODS if is_served(method)]


def install(app: FastAPI, metrics: Metrics) -> None:
    """Every error that leaves a route becomes an envelope."""

    @app.exception_handler(RequestError)
    async def _refused(request: Request, error: RequestError) -> Response:
        if not isinstance(error, UnfinishedError):  # which the client has counted
            metrics.add("request_count")
            metrics.add("request_failure")
        return response(
            error.status, str(error), param=error.param, retry_after_s=error.retry_after_s, scope=request.scope
        )

    @app.exception_handler(ClientLeftError)
    async def _left(request: Request, error: ClientLeftError) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(HTTPException)
    async def _no_route(request: Request, error: HTTPException) -> Response:
        path = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 404:
            return response(404, f"there is no {path}; /docs lists what there is")
        answer = response(error.status_code, f"{path}: {error.detail}", scope=request.scope)
        answer.headers.update(error.headers or {})
        if error.status_code == 405:
            # Each method has a route of its own, of which the framework has asked one.
            answer.headers["allow"] = ", ".join(_methods_of(request))
        return answer

    @app.exception_handler(Exception)
    async def _failed(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, printable(request.url.path, 200), exc_info=error)
        return response(500, "the server failed at this request; its log says why", scope=request.scope)
