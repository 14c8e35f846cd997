"""The OpenAPI document: routes come from FastAPI, bodies and answers from msgspec structs."""

from typing import Any

import msgspec
from fastapi import FastAPI

from lightllm.serving.api.errors import ErrorEnvelope

_TEMPLATE = "#/components/schemas/{name}"
_structs: dict[str, type[msgspec.Struct]] = {}  # all that routes mention, filled as they are declared
_STATUSES = {
    400: "The request cannot be served as it stands",
    429: "Full, or too late; Retry-After says when to try again",
    503: "Not serving, or out of time",
}


def described(
    body: type[msgspec.Struct] | None, answer: type[msgspec.Struct], *, streams: bool = False
) -> dict[str, Any]:
    """Arguments of a route that document what it takes and gives."""
    content: dict[str, Any] = {"application/json": {"schema": _of(answer)}}
    if streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[int | str, Any] = {200: {"description": "The answer", "content": content}}
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _of(body)}}}
        errors = {"application/json": {"schema": _of(ErrorEnvelope)}}
        responses |= {status: {"description": text, "content": errors} for status, text in _STATUSES.items()}
    return {"responses": responses, "openapi_extra": extra}


def _of(struct: type[msgspec.Struct]) -> dict[str, str]:
    _structs[struct.__name__] = struct
    return {"$ref": _TEMPLATE.format(name=struct.__name__)}


def install(app: FastAPI) -> None:
    """Completes the document of `app` with the structs that routes mention."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, components = msgspec.json.schema_components(_structs.values(), ref_template=_TEMPLATE)
            document.setdefault("components", {}).setdefault("schemas", {}).update(components)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi
