"""On what terms an HTTP request waits and runs: its priority, its time, and whose share of the server it uses."""

import hashlib
from typing import Protocol

from fastapi import Request

from lightllm.base.request import Terms
from lightllm.serving.api.keys import given_keys
from lightllm.serving.api.service import Service


class _Fields(Protocol):
    """Of any body that asks for tokens."""

    @property
    def priority(self) -> int | None: ...
    @property
    def timeout_s(self) -> float | None: ...
    @property
    def user(self) -> str | None: ...


def of(service: Service, request: Request, fields: _Fields, *, cache_salt: str | None = None) -> Terms:
    """cache_salt: only requests with the same one find one another's prompts. Raises RequestError for values that are
    not allowed."""
    salt = request.state.caller.salt if request.state.caller else 0
    return Terms(
        priority=fields.priority or 0,
        timeout_s=fields.timeout_s,
        tenant=_tenant(service, request, fields.user),
        salt=salt if cache_salt is None else _hash(f"{salt} {cache_salt}".encode(), size=4),
    )


def _tenant(service: Service, request: Request, user: str | None) -> int:
    """64 bits that stand for the user or the API key; nobody can read either from them.

    On a server without keys of its own, keys that clients send all the same tell them apart.
    """
    caller = request.state.caller
    key = caller.name.encode() if caller else b"".join(given_keys(request.scope["headers"]))
    who = f"user {user}".encode() if user and service.config.fair_share_by == "user" else b""
    name = key + b" " + who if caller else who or key
    return _hash(name, size=8) if name else 0


def _hash(said: bytes, *, size: int) -> int:
    """A number of `size` bytes."""
    return int.from_bytes(hashlib.blake2b(said, digest_size=size).digest())
