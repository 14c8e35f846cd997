"""What the events of the Messages API hold, for the OpenAPI document and for those who check streams against it.

`answers` puts them together from bytes; these structs say what comes out.
"""

from typing import Literal

import msgspec

from lightllm.serving.api.anthropic.answers import AnswerBlock, AnthropicUsage, MessageAnswer


class _Event(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type"):
    """Its `type` is the event's name, too."""


class MessageStart(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="message_start"):
    """The message without content, and what its prompt cost."""

    message: MessageAnswer


class Ping(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="ping"):
    """Says nothing."""


class ContentBlockStart(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="content_block_start"):
    """An empty block: the one with this index."""

    index: int
    content_block: AnswerBlock


class _Delta(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type"):
    """What is new of a block."""


class TextDelta(_Delta, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="text_delta"):
    text: str


class ThinkingDelta(_Delta, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="thinking_delta"):
    thinking: str


class InputJsonDelta(_Delta, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="input_json_delta"):
    """All pieces of a call together are its input's JSON."""

    partial_json: str


class ContentBlockDelta(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="content_block_delta"):
    index: int
    delta: TextDelta | ThinkingDelta | InputJsonDelta


class ContentBlockStop(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="content_block_stop"):
    index: int


class MessageEnd(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Why the message ended, as in a whole one."""

    stop_reason: Literal["end_turn", "stop_sequence", "tool_use", "max_tokens"]
    stop_sequence: str | None


class MessageDeltaEvent(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="message_delta"):
    """What is known at the end. `usage` is that of the whole message."""

    delta: MessageEnd
    usage: AnthropicUsage


class MessageStop(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="message_stop"):
    """The last event."""


MessageEvent = (
    MessageStart | Ping | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDeltaEvent | MessageStop
)
