"""What the OpenAI routes have in common: usage, finish reasons, sampling parameters, ids of answers."""

import secrets
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lightllm.base.errors import RequestError
from lightllm.base.request import FinishReason
from lightllm.serving.api import structured
from lightllm.serving.api.body import GenerationBody
from lightllm.serving.api.service import Service
from lightllm.serving.records import Request, Update

# A timeout cuts an answer off as a length does, and clients know no other word for it; `stop_reason` tells them apart.
FINISH = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TIMEOUT: "length"}
DONE = b"data: [DONE]\n\n"
_SAME_NAME = (
    "n", "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos", "skip_special_tokens",
    "include_stop_str_in_output", "prompt_logprobs", "typical_p", "logit_bias", "allowed_token_ids", "bad_words",
    "first_token_ids",
    "exponential_decay_length_penalty", "truncate_prompt_tokens", "truncation_side", "long_truncation_mode",
)  # fmt: skip
_FULL_BYTES = 128  # few tokens have more
json = msgspec.json.encode


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Each prompt is counted once, however many samples it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET  # of models that reason


def sampling_values(
    service: Service, body: GenerationBody, *, max_tokens: int | None, logprobs: int | None
) -> dict[str, Any]:
    """What a body says of SamplingParams; None where it says nothing."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop
    values = {name: getattr(body, name) for name in _SAME_NAME}
    if body.stream and body.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs do not come with stream=true; leave one out", param="prompt_logprobs")
    grammar = structured.grammar_of({name: getattr(body, name) for name in structured.FIELDS})
    return values | {
        "temperature": service.temperature(body.temperature, samples=body.do_sample),
        "stop": stop,
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "grammar": grammar,
    }


def check_stream_options(body: GenerationBody) -> None:
    """Raises RequestError where stream_options make no sense."""
    if body.stream_options is None:
        return
    if not body.stream:
        raise RequestError("stream_options need stream=true", param="stream_options")


def several(given: str | list[int | str | list[int]], *, param: str) -> list[str | list[int]]:
    """One or more texts or lists of token ids, from any of the four forms. Raises RequestError naming `param`."""
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if not given or len(kinds) > 1:
        raise RequestError(f"{param} must be a text, token ids, or a list of either; it must not be empty", param=param)
    return [given] if kinds == {int} else given  # type: ignore[list-item, return-value]  # kinds says so


def answer_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


def service_tier(body: GenerationBody) -> Literal["default"] | UnsetType:
    """The tier that serves a request, for those who ask for one."""
    return UNSET if body.service_tier is None else "default"


def prompt_token_ids(service: Service, body: GenerationBody, request: Request) -> list[int] | UnsetType:
    """The prompt as the engine was given it, for those who ask."""
    return service.client.prompt_of(request).tolist() if body.return_token_ids else UNSET


def chunk_head(service: Service, body: GenerationBody, *, id: str, kind: str) -> bytes:
    """How every chunk of one stream begins, up to its choices."""
    tier = "" if body.service_tier is None else ',"service_tier":"default"'
    return (
        f'data: {{"id":"{id}","object":"{kind}","created":{int(time.time())},'
        f'"model":{json(service.model_name).decode()},"system_fingerprint":"{service.fingerprint}"{tier},"choices":['
    ).encode()


class UsageCount:
    """Tokens of all choices so far."""

    def __init__(self, requests: Sequence[Request]):
        self._prompt_tokens = sum(request.prompt_tokens for request in requests if request.sample == 0)
        self._is_first = [request.sample == 0 for request in requests]
        self._output, self._cached = [0] * len(requests), [0] * len(requests)
        self._reasoning: dict[int, int] = {}

    def note(self, choice: int, update: Update, *, reasoning_tokens: int | None = None) -> None:
        """`reasoning_tokens` of the choice so far, where they are counted."""
        self._output[choice] = update.num_tokens
        if reasoning_tokens is not None:
            self._reasoning[choice] = reasoning_tokens
        if self._is_first[choice]:
            self._cached[choice] = update.cached_tokens

    def usage(self) -> Usage:
        output = sum(self._output)
        details = CompletionTokensDetails(sum(self._reasoning.values())) if self._reasoning else UNSET
        return Usage(
            self._prompt_tokens,
            output,
            self._prompt_tokens + output,
            PromptTokensDetails(sum(self._cached)),
            details,
        )


class UsageTail:
    """How the chunks of a stream end: with nothing about usage, with null, or with the count so far. With obfuscation
    they are filled up to a multiple of bytes, so that who sees only sizes learns little of the text."""

    def __init__(self, count: UsageCount, body: GenerationBody):
        options = body.stream_options
        self.count = count
        self.is_asked = bool(options and options.include_usage)
        self._is_continuous = bool(options and options.continuous_usage_stats)
        self._obfuscates = bool(options and options.include_obfuscation)

    def end(self, chunk: bytes) -> bytes:
        """The chunk, whose object is still open, with its end."""
        if self._is_continuous:
            chunk += b',"usage":' + json(self.count.usage())
        elif self.is_asked:
            chunk += b',"usage":null'
        if self._obfuscates:
            chunk += b',"obfuscation":"'
            filling = -(len(chunk) + 1) % _FULL_BYTES
            chunk += secrets.token_hex(filling)[:filling].encode() + b'"'
        return chunk + b"}\n\n"
