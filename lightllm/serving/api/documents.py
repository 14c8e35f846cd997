"""The OpenAPI document: routes come from FastAPI, bodies and answers from msgspec structs."""

import re
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute

from lightllm.serving.api.errors import ErrorEnvelope
from lightllm.serving.api.guard import OPEN_PATHS

_TEMPLATE = "#/components/schemas/{name}"
_structs: dict[str, type[msgspec.Struct]] = {}  # all that routes mention, filled as they are declared
_KEY_MISSING = {401: "An API key is missing or wrong, on a server that has any"}
_BODY_STATUSES = {
    400: "The request cannot be served as it stands",
    404: "The model is not served here",
    413: "The body is too large",
    429: "Full, or too late; Retry-After says when to try again",
    503: "Not serving, or out of time",
}
_OTHERS = {"default": "Any other error"}
_EVENTS = {"description": "Server-sent events, the data of each being JSON; `[DONE]` ends those of OpenAI's routes"}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def described(
    body: type[msgspec.Struct] | None,
    answer: type[msgspec.Struct] | str | None,
    *,
    streams: bool | type[msgspec.Struct] = False,
    error: type[msgspec.Struct] = ErrorEnvelope,
) -> dict[str, Any]:
    """Arguments of a route that document what it takes and gives: a struct as JSON, or a text of a media type.

    No answer: it only streams.
    `streams`: it may stream; a struct says what the data of each event hold.
    """
    content: dict[str, Any] = {}
    if isinstance(answer, str):
        content[answer] = {"schema": {"type": "string"}}
    elif answer is not None:
        content["application/json"] = _content(answer)
    if streams:
        content["text/event-stream"] = {"schema": _EVENTS if streams is True else _event(streams)}
    responses: dict[int | str, Any] = {200: {"description": "The answer", "content": content}}
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": _content(body)}}
    errors = {"application/json": _content(error)}
    statuses = _KEY_MISSING | (_BODY_STATUSES if body is not None else {}) | _OTHERS
    responses |= {status: {"description": text, "content": errors} for status, text in statuses.items()}
    return {"responses": responses, "openapi_extra": extra}


def _content(struct: type[msgspec.Struct]) -> dict[str, Any]:
    _structs[struct.__name__] = struct
    return {"schema": {"$ref": _TEMPLATE.format(name=struct.__name__)}}


def _event(data: type[msgspec.Struct]) -> dict[str, Any]:
    inner = {"type": "string", "contentMediaType": "application/json", "contentSchema": _content(data)["schema"]}
    return _EVENTS | {"type": "object", "properties": {"data": inner}, "required": ["data"]}


def _mentioned_in(document: dict[str, Any]) -> list[type[msgspec.Struct]]:
    """The structs of these routes: other servers of this process may have others."""
    text = msgspec.json.encode(document).decode()
    return [struct for name, struct in _structs.items() if f'"{_TEMPLATE.format(name=name)}"' in text]


def operation_id(route: APIRoute) -> str:
    """What generated clients call it: method and path."""
    methods = "_".join(sorted(route.methods or ())).lower()
    return re.sub(r"\W+", "_", f"{methods}_{route.path}").strip("_")


def install(app: FastAPI, *, needs_key: bool) -> None:
    """Completes the document of `app` with the structs that routes mention, and with who may use it."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            components["schemas"] = msgspec.json.schema_components(_mentioned_in(document), ref_template=_TEMPLATE)[1]
            if needs_key:
                components["securitySchemes"] = _SECURITY_SCHEMES
                document["security"] = [{name: []} for name in _SECURITY_SCHEMES]
                for path in OPEN_PATHS & document["paths"].keys():
                    for operation in document["paths"][path].values():
                        operation["security"] = []
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi
