"""What stands before all routes, as pure ASGI: API keys, an id for each request, the access log.

A streamed token passes one plain function here, which costs it 0.1 us.
"""

import logging
import sys
import time
from collections.abc import Awaitable, Mapping

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightllm.base.config import AccessLog
from lightllm.serving.api import errors
from lightllm.serving.api.errors import Dialect
from lightllm.serving.api.keys import Caller, Keyring, given_keys
from lightllm.serving.api.printable import printable, request_id

# Health for those who watch the server; two pages that hold nothing and ask for a key themselves.
OPEN_PATHS = frozenset({"/health", "/healthz", "/readiness", "/liveness"})
OPEN_PAGES = frozenset({"/", "/docs"})
_LEFT = 499  # the client left before there was anything to tell


class Guard:
    """Lets requests through to `app` that may pass. scope["state"] has their `caller`, `request_id` and `dialect`."""

    def __init__(self, app: ASGIApp, keyring: Keyring, access_log: AccessLog, dialects: Mapping[str, Dialect]):
        """`dialects`: of paths with words of their own."""
        self._app, self._keyring, self._dialects = app, keyring, dialects
        self._note = {"off": None, "text": _as_text, "json": _as_json}[access_log]
        self._log = _access_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), _LEFT
        identifier = request_id(next((value for name, value in scope["headers"] if name == b"x-request-id"), None))
        dialect = self._dialects.get(scope["path"], errors.OPENAI)
        id_headers = [(name, identifier) for name in dict.fromkeys((b"x-request-id", dialect.id_header))]

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *id_headers]}
            return send(message)

        caller = self._keyring.caller(scope["headers"])
        scope["state"] = scope.get("state", {}) | {
            "caller": caller,
            "request_id": identifier.decode(),
            "dialect": dialect,
        }
        try:
            if caller is not None or not self._keyring or _is_open(scope):
                await self._app(scope, receive, send_with_id)
            else:
                await _refusal(scope)(scope, receive, send_with_id)
        finally:
            if self._note is not None:
                self._log.info("%s", self._note(scope, caller, status, time.monotonic() - began))


def _is_open(scope: Scope) -> bool:
    return scope["path"] in OPEN_PATHS or (scope["path"] in OPEN_PAGES and scope["method"] in ("GET", "HEAD"))


def _refusal(scope: Scope) -> ASGIApp:
    what = "the API key is none of this server's" if given_keys(scope["headers"]) else "an API key is missing"
    return errors.response(401, f"{what}; send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`", scope=scope)


class _Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the access log. Neither query nor headers nor body are in it: they may hold secrets."""

    time: str
    request_id: str
    client: str
    method: str
    path: str
    status: int
    seconds: float
    key: str | None = None  # its name


def _entry(scope: Scope, caller: Caller | None, status: int, seconds: float) -> _Access:
    now = time.time()
    return _Access(
        time=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z",
        request_id=scope["state"]["request_id"],
        client=(scope.get("client") or ("-",))[0],
        method=printable(scope["method"], 20),
        path=printable(scope["path"], 200),
        status=status,
        seconds=round(seconds, 6),
        key=caller and caller.name,
    )


def _as_json(scope: Scope, caller: Caller | None, status: int, seconds: float) -> str:
    return msgspec.json.encode(_entry(scope, caller, status, seconds)).decode()


def _as_text(scope: Scope, caller: Caller | None, status: int, seconds: float) -> str:
    entry = _entry(scope, caller, status, seconds)
    return (
        f"{entry.time} {entry.client} {entry.key or '-'} {entry.request_id} "
        f"{entry.method} {entry.path} {entry.status} {entry.seconds:.3f} s"
    )


def _access_logger() -> logging.Logger:
    """Whole lines to standard output, where nothing else goes."""
    logger = logging.getLogger("lightllm_access")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
