"""What stands after the question mark of a URL."""

import re
from typing import Any

from fastapi import Request

from lightllm.base.errors import RequestError

PAGED = {"after": "string", "limit": "integer", "order": "string"}  # parameters of lists, and their types
_MOST = 100
_METADATA = re.compile(r"metadata\[[^\]]*\]")


class Query:
    """What stands after the question mark. Raises RequestError for what is unknown or wrong."""

    def __init__(self, request: Request, *known: str, has_metadata: bool = False):
        """`has_metadata`: there may be metadata[KEY]=VALUE as well."""
        self._values = request.query_params
        given = self._values.items() if has_metadata else ()
        self.metadata = {name: value for name, value in given if _METADATA.fullmatch(name)}
        for name in self._values:
            if name not in known and name not in self.metadata:
                raise RequestError(f"unknown parameter {name[:100]!r}; leave it out", param=name[:100])

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        value = self._values.get(name, "false").lower()
        if value not in ("true", "false"):
            raise RequestError(f"{name}={value[:100]!r} is not allowed; use true or false", param=name)
        return value == "true"

    def limit(self) -> int:
        return self.integer("limit", default=20, least=1, most=_MOST)

    def is_descending(self, *, default: bool) -> bool:
        order = self._values.get("order", "desc" if default else "asc")
        if order not in ("asc", "desc"):
            raise RequestError(f"order={order[:100]!r} is not allowed; use asc or desc", param="order")
        return order == "desc"

    def page(self, items: list[dict[str, Any]], *, descending: bool) -> tuple[list[dict[str, Any]], bool]:
        """Those of the items that `after`, `limit` and `order` ask for, and whether there are more after them."""
        listed = items[::-1] if self.is_descending(default=descending) else items
        if (after := self.text("after")) is not None:
            at = next((i for i, item in enumerate(listed) if item["id"] == after), None)
            if at is None:
                raise RequestError(f"after={after[:100]!r} is none of these items", param="after")
            listed = listed[at + 1 :]
        return listed[: self.limit()], len(listed) > self.limit()

    def integer(self, name: str, *, default: int, least: int, most: int) -> int:
        if (text := self._values.get(name)) is None:
            return default
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else least - 1
        if not least <= value <= most:
            raise RequestError(f"{name}={text[:100]!r} is not allowed; use {max(0, least)} to {most}", param=name)
        return value


def described_with(described_route: dict[str, Any], **types: str) -> dict[str, Any]:
    """The documentation of a route with that of the parameters after its question mark."""
    listed: list[dict[str, Any]] = [
        {"name": name, "in": "query", "required": False, "schema": {"type": kind}} for name, kind in types.items()
    ]
    extra = {**described_route["openapi_extra"], "parameters": listed}
    return described_route | {"openapi_extra": extra}
