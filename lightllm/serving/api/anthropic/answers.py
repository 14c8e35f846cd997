"""Answers of the Messages API: whole, and as a stream of events."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from lightllm.serving.api import errors, openai
from lightllm.serving.api.anthropic.wording import DIALECT
from lightllm.serving.api.chat_answers import ChoiceReader
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service
from lightllm.serving.parsing.events import CallArguments, CallBegin, Content, Event, Reasoning, joined
from lightllm.serving.records import Request, Update

_REASONS = {"tool_calls": "tool_use", "length": "max_tokens"}


class _AnswerBlock(msgspec.Struct, kw_only=True, tag_field="type"):
    """Part of an answer."""


class TextAnswer(_AnswerBlock, kw_only=True, tag="text"):
    text: str
    citations: None = None


class ThinkingAnswer(_AnswerBlock, kw_only=True, tag="thinking"):
    """The signature is empty: thoughts that come back are not checked."""

    thinking: str
    signature: str = ""


class ToolUseAnswer(_AnswerBlock, kw_only=True, tag="tool_use"):
    """Where the model wrote no JSON object, or was cut short, `input` is {"INVALID_JSON": its text}."""

    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = TextAnswer | ThinkingAnswer | ToolUseAnswer


class OutputTokensDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class AnthropicUsage(msgspec.Struct, kw_only=True, frozen=True):
    """All input tokens are `input_tokens` and those found in the cache, `cache_read_input_tokens`, together."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens_details: OutputTokensDetails | UnsetType = UNSET  # of models that think


class MessageAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """`stop_reason`: end_turn, stop_sequence (which `stop_sequence` names), tool_use or max_tokens."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class TokensCounted(msgspec.Struct, frozen=True):
    input_tokens: int


def whole(service: Service, request: Request, reader: ChoiceReader, answer: Update) -> MessageAnswer:
    blocks = _blocks(reader, reader.read(answer))
    reason, sequence = _stop(request, reader, answer)
    return MessageAnswer(
        id=openai.answer_id("msg"),
        model=service.model_name,
        content=blocks,
        stop_reason=reason,
        stop_sequence=sequence,
        usage=_usage(request, reader, answer),
    )


def _blocks(reader: ChoiceReader, events: list[Event]) -> list[AnswerBlock]:
    blocks: list[AnswerBlock] = []
    arguments: dict[int, str] = {}
    for event in joined(events):
        match event:
            case Content(text):
                blocks.append(TextAnswer(text=text))
            case Reasoning(text):
                blocks.append(ThinkingAnswer(thinking=text))
            case CallBegin(index):
                arguments[index] = ""
                blocks.append(ToolUseAnswer(id=reader.call(event).id, name=event.name, input={}))
            case CallArguments(index, text):
                arguments[index] += text
    calls = (block for block in blocks if isinstance(block, ToolUseAnswer))
    for call, text in zip(calls, arguments.values(), strict=True):
        call.input = _input(text)
    return blocks


def _input(arguments: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return {"INVALID_JSON": arguments}


def _stop(request: Request, reader: ChoiceReader, update: Update) -> tuple[str, str | None]:
    """Why the answer ended, and the stop sequence that ended it, if one did."""
    assert update.finish_reason is not None, "the answer has ended"
    finish, cause = reader.finish(update.finish_reason), update.stop_reason(request)
    if finish == "stop" and isinstance(cause, str):
        return "stop_sequence", cause
    return _REASONS.get(finish, "end_turn"), None


def _usage(request: Request, reader: ChoiceReader, update: Update) -> AnthropicUsage:
    """So far."""
    thinking = reader.reasoning_tokens
    return AnthropicUsage(
        input_tokens=request.prompt_tokens - update.cached_tokens,
        output_tokens=update.num_tokens,
        cache_read_input_tokens=update.cached_tokens,
        output_tokens_details=UNSET if thinking is None else OutputTokensDetails(thinking),
    )


class MessageStream:
    """Events of one answer: message_start, then each block's start, deltas and stop, message_delta, message_stop."""

    def __init__(self, service: Service, request: Request, reader: ChoiceReader, *, needs_tokens: bool):
        self.needs_tokens = needs_tokens
        self._service, self._request, self._reader = service, request, reader
        self._has_begun = False
        self._block: tuple[type[Event], int] | None = None  # kind of the open one, and which call
        self._index = -1
        self._last = Update()

    def event(self, choice: int, update: Update) -> bytes:
        pieces = [] if self._has_begun else [self._begin(update)]
        for event in self._reader.read(update):
            pieces += self._pieces(event)
        self._last = update
        return b"".join(pieces)

    def _begin(self, update: Update) -> bytes:
        self._has_begun = True
        message = MessageAnswer(
            id=openai.answer_id("msg"),
            model=self._service.model_name,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=_usage(self._request, self._reader, update),
        )
        return _event("message_start", b'"message":' + json(message)) + _event("ping")

    def _pieces(self, event: Event) -> list[bytes]:
        """What an event of the answer is as events of the stream."""
        kind = CallBegin if isinstance(event, CallArguments) else type(event)
        block = kind, event.index if isinstance(event, CallBegin | CallArguments) else -1
        pieces = []
        if block != self._block:
            pieces += self._stopped()
            self._block, self._index = block, self._index + 1
            pieces.append(
                _event("content_block_start", b'"index":%d,"content_block":%s' % (self._index, self._opening(event)))
            )
        match event:
            case Content(text):
                delta = b'"text_delta","text":%s' % json(text)
            case Reasoning(text):
                delta = b'"thinking_delta","thinking":%s' % json(text)
            case CallArguments(_, text):
                delta = b'"input_json_delta","partial_json":%s' % json(text)
            case CallBegin():
                return pieces
        return [*pieces, _event("content_block_delta", b'"index":%d,"delta":{"type":%s}' % (self._index, delta))]

    def _opening(self, event: Event) -> bytes:
        """An empty block for what begins with `event`."""
        match event:
            case Content():
                return json(TextAnswer(text=""))
            case Reasoning():
                return json(ThinkingAnswer(thinking=""))
            case CallBegin(_, name):
                return json(ToolUseAnswer(id=self._reader.call(event).id, name=name, input={}))
            case CallArguments():
                raise AssertionError("arguments follow the beginning of their call")

    def _stopped(self) -> list[bytes]:
        """The end of the open block, if there is one."""
        return [] if self._block is None else [_event("content_block_stop", b'"index":%d' % self._index)]

    def end(self) -> bytes:
        reason, sequence = _stop(self._request, self._reader, self._last)
        delta = json({"stop_reason": reason, "stop_sequence": sequence})
        usage = json(_usage(self._request, self._reader, self._last))
        return b"".join(
            [
                *self._stopped(),
                _event("message_delta", b'"delta":%s,"usage":%s' % (delta, usage)),
                _event("message_stop"),
            ]
        )

    def failure(self, status: int, message: str) -> bytes:
        return b"event: error\ndata: %s\n\n" % errors.encoded(status, message, dialect=DIALECT)


def _event(kind: str, fields: bytes = b"") -> bytes:
    name = kind.encode()
    return b'event: %s\ndata: {"type":"%s"%s}\n\n' % (name, name, b"," + fields if fields else b"")
