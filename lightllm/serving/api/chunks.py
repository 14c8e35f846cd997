"""What the events of streams hold, for the OpenAPI document and for those who check streams against it.

Streams are put together from bytes, most of which never change; these structs say what comes out.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from lightllm.serving.api.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobs
from lightllm.serving.api.native_answers import TokenDetails
from lightllm.serving.api.openai import Usage


class FunctionDelta(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The name comes once, the arguments in pieces."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What is new of the call with this index."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET
    function: FunctionDelta


class MessageDelta(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What is new of a message. The role comes once."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET  # for those who asked with `functions`
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`finish_reason` and `stop_reason` come with the last piece."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Part of a chat completion. Without choices it is the last, and holds the usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None | UnsetType = UNSET
    system_fingerprint: str
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionChunkChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`finish_reason` and `stop_reason` come with the last piece."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class CompletionChunk(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Part of a completion. Without choices it is the last, and holds the usage."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None | UnsetType = UNSET
    system_fingerprint: str
    service_tier: Literal["default"] | UnsetType = UNSET


class TokenEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One token of /generate_stream. Text that several tokens make together comes with the last of them."""

    token: TokenDetails
    generated_text: None
    finished: bool
    finish_reason: str | None
    details: None
