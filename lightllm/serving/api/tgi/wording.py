"""Errors in the words of text-generation-inference: {"error": message, "error_type"}."""

import msgspec

from lightllm.serving.api.errors import Dialect, Problem

_TYPES = {400: "validation", 404: "not_found", 413: "validation", 429: "overloaded", 401: "unauthorized"}


class TgiError(msgspec.Struct, frozen=True):
    error: str
    error_type: str


def worded(problem: Problem) -> TgiError:
    return TgiError(problem.message, _TYPES.get(problem.status, "generation"))


NAMES = {"max_tokens": "max_new_tokens", "truncate_prompt_tokens": "truncate", "prompt": "inputs"}
DIALECT = Dialect(worded, names=NAMES)
