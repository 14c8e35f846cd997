"""Request bodies: read with a limit, decoded strictly, with what they may hold said in one place.

A field that would be ignored is refused by name: what the server cannot do yet, and what it has never heard of.
"""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from fastapi import Request
from starlette.requests import ClientDisconnect

from lightllm.base.errors import RequestError
from lightllm.serving.api import json_limits
from lightllm.serving.api.generation import ClientLeftError

Body = TypeVar("Body", bound=msgspec.Struct)
Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Metadata = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=64)], Annotated[str, msgspec.Meta(max_length=512)]],
    msgspec.Meta(max_length=16),
]
_UNKNOWN_FIELD = re.compile(r"unknown field `(.*?)`", re.DOTALL)
_PLACE = re.compile(r"at `\$\.([\w.\[\]]+)`")


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a stream reports besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class GenerationBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What chat and text completions have in common. null is the same as leaving a field out."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[Int, float] | None = None
    # Extensions, named as in other servers
    top_k: Int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int | None = None
    stop_token_ids: list[Int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    add_special_tokens: bool | None = None
    priority: Int | None = None
    timeout_s: float | None = None
    prompt_logprobs: Int | None = None
    allowed_token_ids: list[Int] | None = None
    first_token_ids: list[Int] | None = None
    bad_words: list[str] | None = None
    exponential_decay_length_penalty: tuple[Int, float] | None = None
    truncate_prompt_tokens: Int | None = None
    truncation_side: Literal["left", "right"] | None = None
    long_truncation_mode: Literal["none", "head", "center", "tail"] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    cache_salt: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    use_beam_search: bool | None = None
    num_beams: Int | None = None
    num_beam_groups: Int | None = None
    diversity_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    user: str | None = None
    # There is one tier, and answers say so
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    metadata: Metadata | None = None
    # Accepted without effect: they concern the provider's accounts and caches
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Refused unless they say nothing, see NEUTRAL
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    spaces_between_special_tokens: Any = None
    # What the answer must look like, see structured.py
    response_format: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None
    regex: Any = None
    ebnf: Any = None
    json_schema: Any = None


# Values, besides null, with which a field that is not supported says nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "prompt_cache_options": ({}, {"mode": "implicit"}),
    "spaces_between_special_tokens": (True, False),  # there are none between those of a tokenizer.json
}


async def read(request: Request, limit: int) -> bytes:
    """The body of a request, up to `limit` bytes. Raises RequestError 413, ClientLeftError."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect:
        raise ClientLeftError from None
    return b"".join(chunks)


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than the {limit} bytes allowed (--max_request_bytes)", status=413)


def decode(data: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body's fields. Raises RequestError that names the field or the place of the mistake."""
    json_limits.check_depth(data)
    try:
        body = decoder.decode(data)
        json_limits.check_names(data)
        return body
    except msgspec.ValidationError as error:
        message = str(error)
        if unknown := _UNKNOWN_FIELD.search(message):
            name = unknown[1][:100]
            raise RequestError(f"unknown field {name!r}; leave it out", param=name) from None
        place = _PLACE.search(message)
        raise RequestError(f"the body is not as it must be: {message}", param=place and place[1]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None


def refuse_others(given: dict[str, Any], known: Collection[str], place: str) -> None:
    """Raises RequestError naming the first field of `given`, which stands at `place`, that is not among the known."""
    for name in given:
        if name not in known:
            raise RequestError(
                f"unknown field {name[:100]!r} in {place}, which may have {', '.join(known)}; leave it out",
                param=f"{place}.{name[:100]}",
            )


def refuse_unsupported(body: msgspec.Struct, neutral: dict[str, tuple[object, ...]]) -> None:
    """Raises RequestError naming the first field that asks for what the server cannot do."""
    for name, values in neutral.items():
        value = getattr(body, name)
        if value is not None and value not in values:
            raise RequestError(f"{name} is not supported; leave it out", param=name)
