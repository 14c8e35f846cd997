"""What each API wants to be sent, and what its events say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from lightllm.bench.datasets import Turn
from lightllm.bench.options import BackendName
from lightllm.bench.prompts import Prompt


@dataclass(slots=True)
class Event:
    """One event of a stream. None: it does not say."""

    is_output: bool  # whether tokens came with it
    text: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


class Backend(Protocol):
    """One conversation by one API. `begin` before each turn, `end` after it."""

    adds_template: bool  # so that prompts are longer than what is sent

    def begin(self, turn: Turn) -> bytes: ...

    def read(self, data: bytes) -> Event: ...

    def end(self, answer: str) -> None: ...


PATHS: dict[BackendName, str] = {
    "openai": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
    "native": "/generate_stream",
    "vllm": "/v1/completions",
    "sglang": "/v1/completions",
}


class StreamError(Exception):
    """An event that says that the request has failed."""


class _Error(msgspec.Struct):
    message: str = "the server does not say why"


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _ChatChoice(msgspec.Struct):
    delta: _Delta = field(default_factory=_Delta)
    finish_reason: str | None = None


class _TextChoice(msgspec.Struct):
    text: str | None = None


class _Chunk(msgspec.Struct):
    usage: _Usage | None = None
    error: _Error | None = None


class _ChatChunk(_Chunk):
    choices: list[_ChatChoice] = []


class _TextChunk(_Chunk):
    choices: list[_TextChoice] = []


class _NativeToken(msgspec.Struct):
    text: str = ""
    count_output_tokens: int = 0
    prompt_tokens: int = 0


class _NativeEvent(msgspec.Struct):
    token: _NativeToken = field(default_factory=_NativeToken)
    error: _Error | None = None


def _checked(chunk: Any) -> Any:
    if chunk.error is not None:
        raise StreamError(chunk.error.message)
    return chunk


class _OpenAI:
    """What both OpenAI APIs have in common."""

    def __init__(self, model: str, sampling: Mapping[str, Any], extra: Mapping[str, Any]):
        self._common = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in sampling.items() if value not in (None, False)},
            **extra,
        }

    def _event(self, chunk: _Chunk, text: str, *, is_output: bool) -> Event:
        if (usage := chunk.usage) is None:
            return Event(is_output, text)
        cached = usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens
        return Event(is_output, text, usage.prompt_tokens, cached, usage.completion_tokens)


class Completions(_OpenAI):
    """/v1/completions. The prompt of a turn is everything so far as one text."""

    adds_template = False
    _decode = msgspec.json.Decoder(_TextChunk).decode

    def __init__(self, model: str, sampling: Mapping[str, Any], extra: Mapping[str, Any]):
        super().__init__(model, sampling, extra)
        self._said: Prompt | None = None

    def begin(self, turn: Turn) -> bytes:
        self._said = turn.prompt if self._said is None else self._said + turn.prompt  # type: ignore[operator]
        return msgspec.json.encode({**self._common, "prompt": self._said, "max_tokens": turn.output_tokens})

    def read(self, data: bytes) -> Event:
        chunk = _checked(self._decode(data))
        # A token may have no text: a part of a character, or a special token.
        return self._event(chunk, "".join([c.text or "" for c in chunk.choices]), is_output=bool(chunk.choices))

    def end(self, answer: str) -> None:
        if isinstance(self._said, str):
            self._said += answer


class Chat(_OpenAI):
    """/v1/chat/completions."""

    adds_template = True
    _decode = msgspec.json.Decoder(_ChatChunk).decode

    def __init__(self, model: str, sampling: Mapping[str, Any], extra: Mapping[str, Any]):
        super().__init__(model, sampling, extra)
        self._messages: list[dict[str, Any]] = []

    def begin(self, turn: Turn) -> bytes:
        self._messages.append({"role": "user", "content": turn.prompt})
        return msgspec.json.encode({**self._common, "messages": self._messages, "max_tokens": turn.output_tokens})

    def read(self, data: bytes) -> Event:
        chunk = _checked(self._decode(data))
        text, is_output = "", False
        for choice in chunk.choices:
            delta = choice.delta
            text += delta.content or ""
            said = delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls
            # The first chunk names a role only, which is not a token.
            is_output = is_output or bool(said) or choice.finish_reason is not None
        return self._event(chunk, text, is_output=is_output)

    def end(self, answer: str) -> None:
        self._messages.append({"role": "assistant", "content": answer})


class Native:
    """/generate_stream, an event a token."""

    adds_template = False
    _decode = msgspec.json.Decoder(_NativeEvent).decode

    def __init__(self, model: str, sampling: Mapping[str, Any], extra: Mapping[str, Any]):
        given = {name: value for name, value in sampling.items() if value is not None}
        self._parameters = {**given, "do_sample": given.get("temperature", 0) > 0}
        if not self._parameters["do_sample"]:
            self._parameters.pop("temperature", None)
        self._parameters |= extra
        self._said: Prompt | None = None

    def begin(self, turn: Turn) -> bytes:
        self._said = turn.prompt if self._said is None else self._said + turn.prompt  # type: ignore[operator]
        parameters = {**self._parameters, "max_new_tokens": turn.output_tokens}
        return msgspec.json.encode({"inputs": self._said, "parameters": parameters})

    def read(self, data: bytes) -> Event:
        token = _checked(self._decode(data)).token
        return Event(True, token.text, token.prompt_tokens, None, token.count_output_tokens)

    def end(self, answer: str) -> None:
        if isinstance(self._said, str):
            self._said += answer


BACKENDS = {
    "openai": Completions,
    "openai-chat": Chat,
    "native": Native,
    # As other benchmarks call servers that have the same API.
    "vllm": Completions,
    "sglang": Completions,
}
