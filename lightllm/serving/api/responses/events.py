"""What the events of the Responses API hold, for the OpenAPI document and for those who check streams against it.

`answer` puts them together from bytes; these structs say what comes out.
"""

from typing import Literal

import msgspec

from lightllm.serving.api.logprobs import TokenLogprob
from lightllm.serving.api.responses.answer import OutputItem, OutputText, ReasoningText, ResponseObject


class _Event(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Events of a stream are numbered from 0."""

    sequence_number: int


class ResponseState(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The response as it is then: at its beginning and at its end."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.completed", "response.incomplete",
        "response.failed",
    ]  # fmt: skip
    response: ResponseObject


class OutputItemEvent(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """An item, empty when it is added and whole when it is done."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _ItemEvent(_Event, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """About the item with this index and id."""

    output_index: int
    item_id: str


class _PartEvent(_ItemEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """About a part of an item; there is one only."""

    content_index: int


class ContentPartEvent(_PartEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A part, empty when it is added and whole when it is done."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText | ReasoningText


class OutputTextDelta(_PartEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What is new of a text, with logprobs where these are included."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(_PartEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The whole text."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[TokenLogprob]


class ReasoningTextDelta(_PartEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(_PartEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    type: Literal["response.reasoning_text.done"]
    text: str


class FunctionArgumentsDelta(_ItemEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class FunctionArgumentsDone(_ItemEvent, kw_only=True, forbid_unknown_fields=True, frozen=True):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


ResponseEvent = (
    ResponseState | OutputItemEvent | ContentPartEvent | OutputTextDelta | OutputTextDone | ReasoningTextDelta
    | ReasoningTextDone | FunctionArgumentsDelta | FunctionArgumentsDone
)  # fmt: skip
