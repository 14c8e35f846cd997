"""The OpenAPI document: routes come from FastAPI, bodies and answers from msgspec structs."""

import re
from types import GenericAlias, UnionType
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute

from lightllm.serving.api.errors import ErrorEnvelope
from lightllm.serving.api.guard import OPEN_PATHS

Described = type[msgspec.Struct] | UnionType | GenericAlias  # a struct, a union of structs, a list of structs
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
_EVENTS = {
    "description": "Server-sent events, the data of each being JSON. `[DONE]` ends those of completions. A stream that "
    "cannot go on ends with an event of the error"
}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def described(
    body: type[msgspec.Struct] | None,
    answer: Described | str | None,
    *,
    streams: Described | None = None,
    error: type[msgspec.Struct] = ErrorEnvelope,
) -> dict[str, Any]:
    """Arguments of a route that document what it takes and gives: JSON, or a text of a media type.

    No answer: it only streams.
    `streams`: what the data of each event hold, of a route that may stream.
    """
    content: dict[str, Any] = {}
    if isinstance(answer, str):
        content[answer] = {"schema": {"type": "string"}}
    elif answer is not None:
        content["application/json"] = _content(answer)
    if streams is not None:
        content["text/event-stream"] = {"schema": _event(streams)}
    responses: dict[int | str, Any] = {200: {"description": "The answer", "content": content}}
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": _content(body)}}
    errors = {"application/json": _content(error)}
    statuses = _KEY_MISSING | (_BODY_STATUSES if body is not None else {}) | _OTHERS
    responses |= {status: {"description": text, "content": errors} for status, text in statuses.items()}
    return {"responses": responses, "openapi_extra": extra}


def _content(described: Described) -> dict[str, Any]:
    return {"schema": _schema(described)}


def _schema(described: Described) -> dict[str, Any]:
    if isinstance(described, UnionType):
        return {"anyOf": [_schema(one) for one in get_args(described)]}
    if isinstance(described, GenericAlias):
        return {"type": "array", "items": _schema(*get_args(described))}
    _structs[described.__name__] = described
    return {"$ref": _TEMPLATE.format(name=described.__name__)}


def _event(data: Described) -> dict[str, Any]:
    inner = {"type": "string", "contentMediaType": "application/json", "contentSchema": _schema(data)}
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
