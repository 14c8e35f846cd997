"""The server's own pages: the playground at / and the reference at /docs, each one file that loads nothing else."""

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response

from lightllm.serving.api.service import Service

_FILES = {"/": "playground.html", "/docs": "reference.html"}
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def router(service: Service) -> APIRouter:
    routes = APIRouter()
    for path, name in _FILES.items():
        page = Path(__file__).with_name(name).read_text("utf-8")
        routes.add_api_route(
            path,
            _shows(page, _headers(page)),
            methods=["GET", "HEAD"],
            include_in_schema=False,
            response_class=Response,
        )
    return routes


def _shows(page: str, headers: dict[str, str]) -> Callable[[], Awaitable[Response]]:
    async def show() -> Response:
        return Response(page, headers=headers, media_type="text/html")

    return show


def _headers(page: str) -> dict[str, str]:
    """Nothing runs but the page's own script, and it talks to nobody but this server."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }
