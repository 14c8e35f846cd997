"""How the answers to one chat are read: which formats, from where, and how much of them is reasoning."""

import codecs
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightllm.serving.api.service import Service
from lightllm.serving.api.tool_choice import ToolChoice
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.parser import AnswerParser, Part
from lightllm.serving.parsing.reasoning import Beginning, ReasoningParser
from lightllm.serving.parsing.tools import ToolParser
from lightllm.serving.records import Tokens


@dataclass(frozen=True)
class ChatParsing:
    """What a chat's answers are read for. `tools`: JSON schemas of parameters by name; None: no calls are wanted."""

    tool_format: ToolParser | None
    reasoning_format: ReasoningParser | None
    tools: Mapping[str, Mapping[str, Any]] | None
    separates_reasoning: bool
    shows_reasoning: bool
    choice: ToolChoice
    shown_tokens: frozenset[int]  # special tokens that the formats need
    has_old_form: bool = False  # a call is a `function_call`

    @property
    def is_needed(self) -> bool:
        return self.tool_format is not None or self.reasoning_format is not None

    def beginning(self, prompt: str, continued: str | None) -> Beginning:
        """What `prompt` leaves to say, or where the answer goes on from the text `continued`."""
        if self.reasoning_format is None:
            return Beginning()
        if continued is not None:
            return self.reasoning_format.beginning_within(continued)
        return self.reasoning_format.beginning(prompt)

    def new_parser(self, beginning: Beginning) -> AnswerParser:
        """The parser of one choice."""
        parts: list[Part] = []
        if self.reasoning_format is not None:
            parts.append(partial(self.reasoning_format.read, beginning=beginning))
        if self.tool_format is not None:
            parts.append(self.tool_format.read)
        output = Output(
            tools=self.tools,
            separates_reasoning=self.separates_reasoning,
            only_offered=self.choice.is_exclusive,
            most_calls=None if self.choice.several else 1,
        )
        return AnswerParser(output, parts)

    def new_call_id(self) -> str:
        assert self.tool_format is not None, "only its format finds calls"
        return self.tool_format.new_id()


class TokenStarts:
    """Where the tokens of one choice begin in its text, in characters."""

    def __init__(self, service: Service, *, skips_special_tokens: bool, shown: frozenset[int]):
        self._tokenizer = service.need_tokenizer()
        self._skips, self._shown = skips_special_tokens, shown
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._starts: list[int] = []  # of each token, in characters of the text
        self._end = 0

    def note(self, tokens: Tokens) -> None:
        """The next tokens of the choice."""
        for token in tokens.ids.tolist():
            self._starts.append(self._end)
            if not (self._skips and token not in self._shown and self._tokenizer.is_special(token)):
                self._end += len(self._decode(self._tokenizer.token_bytes(token)))

    def before(self, end: int) -> int:
        """How many begin before character `end`."""
        return bisect_left(self._starts, end)

    def reasoning(self, output: Output) -> int:
        """How many have begun within the reasoning, tags included."""
        spans = list(output.reasoning_spans)
        if output.reasoning_start >= 0:
            spans.append((output.reasoning_start, self._end + 1))
        return sum(self.before(end) - self.before(start) for start, end in spans)
