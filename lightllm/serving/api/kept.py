"""What stored responses and stored chats have in common: where they are, and whose they are."""

from fastapi import Request, Response

from lightllm.serving.api.service import Service
from lightllm.serving.archive.client import ArchiveClient


def archive_of(service: Service) -> ArchiveClient:
    assert service.archive is not None, "api processes have one"
    return service.archive


def caller_of(request: Request) -> int:
    """Whose they are: those of one name of an API key, or everyone's on a server without keys. 0 or more."""
    return request.state.caller.salt if request.state.caller else 0


def as_json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
