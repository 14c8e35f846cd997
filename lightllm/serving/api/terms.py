"""On what terms an HTTP request waits and runs: its priority, its time, and whose share of the server it uses."""

import hashlib
from typing import Any, Protocol

from fastapi import Request

from lightllm.base.request import Terms
from lightllm.serving.api.service import Service


class _Fields(Protocol):
    """Of any body that asks for tokens."""

    @property
    def priority(self) -> int | None: ...
    @property
    def timeout_s(self) -> float | None: ...
    @property
    def user(self) -> Any: ...


def of(service: Service, request: Request, fields: _Fields) -> Terms:
    """Raises RequestError for values that are not allowed."""
    return Terms(
        priority=fields.priority or 0,
        timeout_s=fields.timeout_s,
        tenant=_tenant(service, request, fields.user),
    )


def _tenant(service: Service, request: Request, user: Any) -> int:
    """64 bits that stand for the user or the API key; nobody can read either from them."""
    name = f"user {user}" if user and service.config.fair_share_by == "user" else request.headers.get("authorization")
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) if name else 0
