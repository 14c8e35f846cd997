"""Parsers run over texts that are cut into pieces, and what comes out put together."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lightllm.serving.parsing.events import CallArguments, CallBegin, Content, Event, Reasoning
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.parser import AnswerParser
from lightllm.serving.parsing.reasoning import Beginning, ReasoningParser
from lightllm.serving.parsing.tools import ToolParser

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "details": {"type": "object"},
            "unit": {"type": ["string", "null"]},
            "places": {"type": "array"},
            "is_exact": {"type": "boolean"},
        },
    },
    "get_time": {"type": "object", "properties": {}},
    "run": {"type": "object", "properties": {"code": {"type": "string"}, "anything": {}}},
}


@dataclass
class Answer:
    """calls: (name, arguments)."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reasoning: str = ""
    ids: list[str | None] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.reasoning += text
            case CallBegin(index, name, id):
                assert index == len(self.calls), "calls are numbered in order"
                self.calls.append((name, ""))
                self.ids.append(id)
            case CallArguments(index, text):
                assert text, "no event says nothing"
                assert index == len(self.calls) - 1, "arguments are of the call begun last"
                name, before = self.calls[index]
                self.calls[index] = (name, before + text)


def new_parser(
    tools: ToolParser | None,
    /,
    reasoning: ReasoningParser | None = None,
    beginning: Beginning | None = None,
    **options: Any,
) -> AnswerParser:
    parts = []
    if reasoning is not None:
        parts.append(lambda out: reasoning.read(out, beginning or Beginning()))
    if tools is not None:
        parts.append(tools.read)
    return AnswerParser(Output(**({"tools": None if tools is None else TOOLS} | options)), parts)


def parse(pieces: Iterable[str], *args: Any, **options: Any) -> Answer:
    """The answer whose text comes in these pieces; arguments are those of new_parser."""
    parser, answer = new_parser(*args, **options), Answer()
    for piece in pieces:
        for event in parser.feed(piece):
            answer.add(event)
    for event in parser.finish():
        answer.add(event)
    return answer


def cut(text: str, *places: int) -> list[str]:
    """The pieces of `text` between these places."""
    edges = [0, *sorted(places), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
