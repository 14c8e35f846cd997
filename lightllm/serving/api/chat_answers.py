"""Answers of the chat route: whole, and as a stream of chunks."""

import time
from functools import partial
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from lightllm.base.request import FinishReason, SamplingParams
from lightllm.serving import best_of
from lightllm.serving.api import errors, logprobs, openai
from lightllm.serving.api.body import GenerationBody
from lightllm.serving.api.chat_parsing import ChatParsing, TokenStarts
from lightllm.serving.api.generation import Generation
from lightllm.serving.api.openai import DONE, FINISH, Usage, UsageCount, UsageTail, json
from lightllm.serving.api.service import Service
from lightllm.serving.parsing.events import CallArguments, CallBegin, Content, Event, Reasoning
from lightllm.serving.parsing.parser import AnswerParser
from lightllm.serving.parsing.reasoning import Beginning
from lightllm.serving.records import Update


class CalledFunction(msgspec.Struct):
    """`arguments` are JSON, unless the model wrote it wrongly or was cut short."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(msgspec.Struct, kw_only=True):
    """`reasoning` is `reasoning_content` by its other name. Both are there only where there is reasoning."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET  # for those who asked with `functions`
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """`stop_reason` is the stop string or stop token that ended the answer; null for an eos token."""

    index: int
    message: AnswerMessage
    logprobs: logprobs.ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, kw_only=True, frozen=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    service_tier: Literal["default"] | UnsetType = UNSET
    prompt_logprobs: logprobs.PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


class Particulars(NamedTuple):
    """What an answer says of itself, whole or in chunks."""

    id: str
    has_logprobs: bool
    prompt_token_ids: list[int] | UnsetType


class ChoiceReader:
    """What one choice's text and tokens amount to: a message or its deltas, its finish, its tokens of reasoning."""

    def __init__(self, service: Service, parsing: ChatParsing, beginning: Beginning, *, skips_special_tokens: bool):
        self._again = partial(ChoiceReader, service, parsing, beginning, skips_special_tokens=skips_special_tokens)
        self._parsing = parsing
        self._call_ids: dict[int, str] = {}
        self._parser: AnswerParser | None = parsing.new_parser(beginning) if parsing.is_needed else None
        self._tokens: TokenStarts | None = None
        if parsing.reasoning_format is not None:
            self._tokens = TokenStarts(service, skips_special_tokens=skips_special_tokens, shown=parsing.shown_tokens)

    def anew(self) -> "ChoiceReader":
        """One that has read nothing yet, and gives calls the same ids."""
        reader = self._again()
        reader._call_ids = self._call_ids
        return reader

    def read(self, update: Update) -> list[Event]:
        """What is new."""
        if self._parser is None:
            return [Content(update.text)] if update.text else []
        if self._tokens is not None:
            self._tokens.note(update.tokens)
        events = self._parser.feed(update.text) if update.text else []
        if update.finish_reason is not None:
            events += self._parser.finish()
        if self._parsing.shows_reasoning:
            return events
        return [event for event in events if not isinstance(event, Reasoning)]

    def deltas(self, update: Update) -> list[bytes]:
        """The same as a stream words it."""
        if self._parser is None:  # most of all tokens go this way
            return [b'{"content":%s}' % json(update.text)] if update.text else []
        return [self._delta(event) for event in self.read(update)]

    def _delta(self, event: Event) -> bytes:
        match event:
            case Content(text):
                return b'{"content":%s}' % json(text)
            case Reasoning(text):
                said = json(text)
                return b'{"reasoning_content":%s,"reasoning":%s}' % (said, said)
            case CallBegin(_, name) if self._parsing.has_old_form:
                return b'{"function_call":{"name":%s,"arguments":""}}' % json(name)
            case CallArguments(_, text) if self._parsing.has_old_form:
                return b'{"function_call":{"arguments":%s}}' % json(text)
            case CallBegin(index):
                return b'{"tool_calls":[{"index":%d,%s]}' % (index, json(self.call(event))[1:])
            case CallArguments(index, text):
                return b'{"tool_calls":[{"index":%d,"function":{"arguments":%s}}]}' % (index, json(text))

    def message(self, update: Update) -> AnswerMessage:
        """A whole answer's."""
        content, reasoning, calls = [], [], []
        for event in self.read(update):
            match event:
                case Content(text):
                    content.append(text)
                case Reasoning(text):
                    reasoning.append(text)
                case CallBegin():
                    calls.append(self.call(event))
                case CallArguments(index, text):
                    calls[index].function.arguments += text
        message = AnswerMessage(content="".join(content) or (None if calls or reasoning else ""))
        if calls and self._parsing.has_old_form:
            message.function_call = calls[0].function
        elif calls:
            message.tool_calls = calls
        if reasoning:
            message.reasoning_content = message.reasoning = "".join(reasoning)
        return message

    def finish(self, reason: FinishReason) -> str:
        """The finish reason in OpenAI's words."""
        calls = self._parser.output.num_calls if self._parser is not None else 0
        if not calls or reason is not FinishReason.STOP:
            return FINISH[reason]
        return "function_call" if self._parsing.has_old_form else "tool_calls"

    @property
    def reasoning_tokens(self) -> int | None:
        """So far; None for a model that does not reason."""
        if self._tokens is None or self._parser is None:
            return None
        return self._tokens.reasoning(self._parser.output)

    def call(self, begin: CallBegin) -> ToolCall:
        """A call without arguments yet."""
        if begin.index not in self._call_ids:
            self._call_ids[begin.index] = begin.id or self._parsing.new_call_id()
        return ToolCall(id=self._call_ids[begin.index], function=CalledFunction(begin.name))


def completion(
    service: Service,
    body: GenerationBody,
    generation: Generation,
    answers: list[Update],
    readers: list[ChoiceReader],
    params: SamplingParams,
    particulars: Particulars,
) -> ChatCompletion:
    """The best of the answers, in order, or all."""
    count = UsageCount(generation.requests)
    messages = [reader.message(answer) for reader, answer in zip(readers, answers, strict=True)]
    for sample, (reader, answer) in enumerate(zip(readers, answers, strict=True)):
        count.note(sample, answer, reasoning_tokens=reader.reasoning_tokens)
    choices, as_ids = [], bool(body.return_tokens_as_token_ids)
    for choice, sample in enumerate(best_of.chosen(answers, params)):
        answer = answers[sample]
        assert answer.finish_reason is not None, "whole answers have ended"
        choices.append(
            ChatChoice(
                choice,
                messages[sample],
                logprobs.for_chat(service, answer.tokens, as_ids=as_ids) if particulars.has_logprobs else None,
                readers[sample].finish(answer.finish_reason),
                answer.stop_reason(generation.requests[sample]),
                answer.tokens.ids.tolist() if body.return_token_ids else UNSET,
            )
        )
    wanted = body.prompt_logprobs
    return ChatCompletion(
        id=particulars.id,
        created=int(time.time()),
        model=service.model_name,
        choices=choices,
        usage=count.usage(),
        system_fingerprint=service.fingerprint,
        service_tier=openai.service_tier(body),
        prompt_logprobs=UNSET if wanted is None else logprobs.for_prompt(service, answers[0].prompt, wanted),
        prompt_token_ids=particulars.prompt_token_ids,
        metadata=UNSET if body.metadata is None else body.metadata,
    )


class ChatStream:
    """Chunks of one chat, put together from ready-made bytes around the text. `updates` are kept of chats to store."""

    def __init__(
        self,
        service: Service,
        body: GenerationBody,
        generation: Generation,
        readers: list[ChoiceReader],
        particulars: Particulars,
        *,
        needs_tokens: bool,
        keeps_updates: bool,
    ):
        self.needs_tokens = needs_tokens
        self._service, self._generation, self._readers = service, generation, readers
        self._has_logprobs, self._has_ids = particulars.has_logprobs, bool(body.return_token_ids)
        self._tail = UsageTail(UsageCount(generation.requests), body)
        self._head = head = openai.chunk_head(service, body, id=particulars.id, kind="chat.completion.chunk")
        self._heads = [b'%s{"index":%d,"delta":' % (head, choice) for choice in range(len(generation.requests))]
        ids = particulars.prompt_token_ids
        self._prompt = b"" if ids is UNSET else b',"prompt_token_ids":' + json(ids)
        self._has_begun = [False] * len(generation.requests)
        self._keeps_updates, self._names_ids = keeps_updates, bool(body.return_tokens_as_token_ids)
        self.updates: list[list[Update]] = [[] for _ in generation.requests]

    def event(self, choice: int, update: Update) -> bytes:
        if self._keeps_updates:
            self.updates[choice].append(update)
        reader = self._readers[choice]
        deltas = reader.deltas(update)
        self._tail.count.note(choice, update, reasoning_tokens=reader.reasoning_tokens)
        begin = b"" if self._has_begun[choice] else self._begin(choice)
        if update.finish_reason is None and not self._has_logprobs and not self._has_ids:
            return begin + b"".join([self._chunk(choice, delta) for delta in deltas])
        return begin + self._with_more(choice, update, deltas)

    def _with_more(self, choice: int, update: Update, deltas: list[bytes]) -> bytes:
        """The chunks of deltas with logprobs and token ids, which go with the first, or an end, which goes with the
        last."""
        chosen = finish = b"null"
        if self._has_logprobs and len(update.tokens):
            chosen = json(logprobs.for_chat(self._service, update.tokens, as_ids=self._names_ids))
        if self._has_ids and len(update.tokens):
            chosen += b',"token_ids":' + json(update.tokens.ids.tolist())
        if update.finish_reason is not None:
            reason = json(update.stop_reason(self._generation.requests[choice]))
            finish = b'"%s","stop_reason":%s' % (self._readers[choice].finish(update.finish_reason).encode(), reason)
        if chosen == finish == b"null" and not deltas:
            return b""
        first, *others = deltas or [b'{"content":""}']
        if not others:
            return self._chunk(choice, first, chosen, finish)
        chunks = [self._chunk(choice, delta) for delta in others[:-1]]
        return b"".join([self._chunk(choice, first, chosen), *chunks, self._chunk(choice, others[-1], b"null", finish)])

    def _begin(self, choice: int) -> bytes:
        self._has_begun[choice] = True
        return self._chunk(choice, b'{"role":"assistant","content":""}', more=self._prompt)

    def _chunk(
        self, choice: int, delta: bytes, chosen: bytes = b"null", finish: bytes = b"null", more: bytes = b""
    ) -> bytes:
        return self._tail.end(
            b'%s%s,"logprobs":%s,"finish_reason":%s}]%s' % (self._heads[choice], delta, chosen, finish, more)
        )

    def end(self) -> bytes:
        if not self._tail.is_asked:
            return DONE
        return b'%s],"usage":%s}\n\n' % (self._head, json(self._tail.count.usage())) + DONE

    def failure(self, status: int, message: str) -> bytes:
        return errors.event(status, message)
