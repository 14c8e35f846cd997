"""Errors in the words of the Messages API: {"type": "error", "error": {"type", "message"}, "request_id"}."""

from typing import Literal

import msgspec

from lightllm.serving.api.errors import Dialect, Problem

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicErrorBody(msgspec.Struct, frozen=True):
    """What went wrong: what was given, what is allowed, what to do."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["error"] = "error"
    error: AnthropicErrorBody
    request_id: str


def worded(problem: Problem) -> AnthropicError:
    """The error in Anthropic's words, which name the field in the message."""
    kind = _TYPES.get(problem.status, "api_error")
    at = f"{problem.param}: " if problem.param and problem.param not in problem.message else ""
    return AnthropicError(error=AnthropicErrorBody(kind, at + problem.message), request_id=problem.request_id)


NAMES = {
    "stop": "stop_sequences",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "tool_choice=required": "tool_choice.type any",
}
DIALECT = Dialect(worded, id_header=b"request-id", names=NAMES)
