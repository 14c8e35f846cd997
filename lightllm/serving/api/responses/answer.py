"""A response while it is written: the object that it becomes, and the events of its stream."""

import time
from typing import Any, Literal

import msgspec

from lightllm.base.request import FinishReason
from lightllm.serving.api import logprobs
from lightllm.serving.api.chat_answers import ChoiceReader
from lightllm.serving.api.logprobs import TokenLogprob
from lightllm.serving.api.openai import json
from lightllm.serving.api.responses.body import ENCRYPTED, LOGPROBS, FunctionTool, ResponsesBody, tools_of
from lightllm.serving.api.responses.items import encoded, new_id
from lightllm.serving.api.service import Service
from lightllm.serving.parsing.events import CallArguments, CallBegin, Content, Event, Reasoning
from lightllm.serving.records import Request, Update


class OutputText(msgspec.Struct, kw_only=True, tag_field="type", tag="output_text"):
    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(msgspec.Struct, kw_only=True, tag_field="type", tag="reasoning_text"):
    text: str = ""


class _OutputItem(msgspec.Struct, kw_only=True, tag_field="type"):
    """Part of an answer, in the order in which the model wrote it."""

    id: str
    status: str = "in_progress"


class MessageItem(_OutputItem, kw_only=True, tag="message"):
    role: Literal["assistant"] = "assistant"
    content: list[OutputText] = []


class ReasoningItem(_OutputItem, kw_only=True, tag="reasoning"):
    summary: list[Any] = []
    content: list[ReasoningText] = []
    encrypted_content: str | None = None


class FunctionCallItem(_OutputItem, kw_only=True, tag="function_call"):
    """`arguments` are JSON, unless the model wrote it wrongly or was cut short."""

    call_id: str
    name: str
    arguments: str = ""


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class ResponseOutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: ResponseOutputTokensDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: str


class ResponseObject(msgspec.Struct, kw_only=True):
    """`status`: queued, in_progress, completed, incomplete, cancelled or failed. Settings are as asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: str
    background: bool
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[FunctionTool]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None


def new_response(service: Service, body: ResponsesBody) -> ResponseObject:
    """A response to which nothing has been answered yet."""
    defaults = service.defaults
    text = body.text
    return ResponseObject(
        id=new_id("resp"),
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        model=service.model_name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": body.reasoning and body.reasoning.effort, "summary": None},
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=body.store is not False,
        temperature=float(defaults.get("temperature", 1.0)) if body.temperature is None else body.temperature,
        text={"format": (text and text.format) or {"type": "text"}, "verbosity": (text and text.verbosity) or "medium"},
        tool_choice=body.tool_choice or "auto",
        tools=tools_of(body),
        top_logprobs=body.top_logprobs or 0,
        top_p=float(defaults.get("top_p", 1.0)) if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


class Answer:
    """Makes updates of one request a response and its events. Event i of a stream has the sequence number i."""

    def __init__(self, service: Service, body: ResponsesBody, response: ResponseObject, reader: ChoiceReader):
        self.response = response
        self._service, self._reader = service, reader
        self._has_logprobs = LOGPROBS in (body.include or ())
        self._encodes_reasoning = ENCRYPTED in (body.include or ())
        self._num_events = 0
        self._item: OutputItem | None = None  # that is being written
        self._call = -1  # which call, if it is one
        self._pending: list[TokenLogprob] = []  # of tokens whose text has not come yet

    # Steps

    def begin(self) -> list[bytes]:
        events = [self._state("response.created")]
        if self.response.status == "queued":
            events.append(self._state("response.queued"))
        self.response.status = "in_progress"
        return [*events, self._state("response.in_progress")]

    def take(self, request: Request, update: Update) -> list[bytes]:
        """The events of an update. Its last one ends what is open; `end` has to follow."""
        self._note(request, update)
        if self._has_logprobs and len(update.tokens):
            self._pending += logprobs.for_chat(self._service, update.tokens).content
        events: list[bytes] = []
        for event in self._reader.read(update):
            events += self._write(event)
        if update.finish_reason is not None:
            events += self._close("completed" if update.finish_reason is FinishReason.STOP else "incomplete")
            self._set_end(update.finish_reason)
        return events

    def end(self) -> list[bytes]:
        """The last event of an answer that came to its end."""
        return [self._state(f"response.{self.response.status}")]

    def cancel(self) -> list[bytes]:
        """The same for an answer that the client has ended. Streams have no word of their own for that."""
        events = self._close("incomplete")
        self.response.status = "cancelled"
        return [*events, self._state("response.incomplete")]

    def fail(self, code: str, message: str) -> list[bytes]:
        events = self._close("incomplete")
        self.response.status, self.response.error = "failed", ResponseError(code, message)
        return [*events, self._state("response.failed")]

    # How

    def _note(self, request: Request, update: Update) -> None:
        output, prompt = update.num_tokens, request.prompt_tokens
        self.response.usage = ResponseUsage(
            prompt,
            InputTokensDetails(update.cached_tokens),
            output,
            ResponseOutputTokensDetails(self._reader.reasoning_tokens or 0),
            prompt + output,
        )

    def _set_end(self, reason: FinishReason) -> None:
        response = self.response
        response.completed_at = int(time.time())
        response.status = "completed" if reason is FinishReason.STOP else "incomplete"
        if reason is not FinishReason.STOP:
            response.incomplete_details = IncompleteDetails("max_output_tokens")
        usage = response.usage
        if usage is not None:
            details = ResponseOutputTokensDetails(self._reader.reasoning_tokens or 0)
            response.usage = msgspec.structs.replace(usage, output_tokens_details=details)

    def _write(self, event: Event) -> list[bytes]:
        match event:
            case Content(text):
                return self._write_text(text)
            case Reasoning(text):
                self._pending.clear()
                return self._write_reasoning(text)
            case CallBegin():
                self._pending.clear()
                call = self._reader.call(event)
                return self._open(FunctionCallItem(id=new_id("fc"), call_id=call.id, name=event.name))
            case CallArguments(_, text):
                self._pending.clear()
                assert isinstance(self._item, FunctionCallItem), "a call begins before its arguments"
                self._item.arguments += text
                return [
                    self._event("response.function_call_arguments.delta", b'%s,"delta":%s' % (self._at(), json(text)))
                ]

    def _write_text(self, text: str) -> list[bytes]:
        events, item = [], self._item
        if not isinstance(item, MessageItem):
            item = MessageItem(id=new_id("msg"))
            events += [*self._open(item), self._part("added", OutputText())]
            item.content = [OutputText()]
        part = item.content[0]
        part.text += text
        chosen, self._pending = self._pending, []
        part.logprobs += chosen
        fields = b'%s,"content_index":0,"delta":%s,"logprobs":%s' % (self._at(), json(text), json(chosen))
        return [*events, self._event("response.output_text.delta", fields)]

    def _write_reasoning(self, text: str) -> list[bytes]:
        events, item = [], self._item
        if not isinstance(item, ReasoningItem):
            item = ReasoningItem(id=new_id("rs"))
            events += [*self._open(item), self._part("added", ReasoningText())]
            item.content = [ReasoningText()]
        item.content[0].text += text
        fields = b'%s,"content_index":0,"delta":%s' % (self._at(), json(text))
        return [*events, self._event("response.reasoning_text.delta", fields)]

    def _open(self, item: OutputItem) -> list[bytes]:
        """Begins an item, after the one before has ended."""
        events = self._close("completed")
        self._item = item
        self.response.output = [*self.response.output, item]
        return [*events, self._event("response.output_item.added", self._whole_item(item))]

    def _close(self, status: str) -> list[bytes]:
        """Ends the open item, if there is one."""
        if (item := self._item) is None:
            return []
        at, item.status = self._at(), status
        match item:
            case MessageItem(content=[part]):
                part.logprobs += self._pending  # of what ended the answer
                done = b'%s,"content_index":0,"text":%s,"logprobs":%s' % (at, json(part.text), json(part.logprobs))
                events = [self._event("response.output_text.done", done), self._part("done", part)]
            case ReasoningItem(content=[part]):
                if self._encodes_reasoning:
                    item.encrypted_content = encoded(part.text)
                done = b'%s,"content_index":0,"text":%s' % (at, json(part.text))
                events = [self._event("response.reasoning_text.done", done), self._part("done", part)]
            case FunctionCallItem(arguments=arguments, name=name):
                done = b'%s,"name":%s,"arguments":%s' % (at, json(name), json(arguments))
                events = [self._event("response.function_call_arguments.done", done)]
            case _:
                raise AssertionError("an item has its part from the beginning")
        self._item, self._pending = None, []
        return [*events, self._event("response.output_item.done", self._whole_item(item))]

    # Wording

    def _at(self) -> bytes:
        """Which item it is about."""
        assert self._item is not None, "something is being written"
        return b'"output_index":%d,"item_id":"%s"' % (len(self.response.output) - 1, self._item.id.encode())

    def _whole_item(self, item: OutputItem) -> bytes:
        return b'"output_index":%d,"item":%s' % (len(self.response.output) - 1, json(item))

    def _part(self, what: str, part: OutputText | ReasoningText) -> bytes:
        fields = b'%s,"content_index":0,"part":%s' % (self._at(), json(part))
        return self._event(f"response.content_part.{what}", fields)

    def _state(self, kind: str) -> bytes:
        return self._event(kind, b'"response":%s' % json(self.response))

    def _event(self, kind: str, fields: bytes) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        name = kind.encode()
        return b'event: %s\ndata: {"type":"%s","sequence_number":%d,%s}\n\n' % (name, name, number, fields)
