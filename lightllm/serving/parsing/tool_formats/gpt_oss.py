"""GPT-OSS, the harmony format: an answer is several messages, each with a header that says where it goes.

`<|channel|>analysis<|message|>...<|end|>` is reasoning, `<|channel|>commentary to=functions.NAME
<|constrain|>json<|message|>{...}<|call|>` is a call, all else is text for the user.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from lightllm.base.grammar import AnyText, ConstString, Grammar, Sequence, Star, Tag
from lightllm.serving.parsing.calls.call import is_name
from lightllm.serving.parsing.calls.json_values import Values
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Markers, Reader, Steps
from lightllm.serving.parsing.reasoning import Beginning
from lightllm.serving.parsing.tools import new_id

_BEFORE_HEADER = ("<|channel|>", "<|start|>")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", *_BEFORE_HEADER)
_HEADER = Markers(_BEFORE_HEADER)
_MESSAGE = Markers(_ENDS)
_HEADER_END = Markers(["<|message|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"])
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")
_ARGUMENTS = Values(_ENDS)


@dataclass(frozen=True)
class _Header:
    start: int  # position of its first character
    text: str

    @property
    def is_analysis(self) -> bool:
        return "<|channel|>analysis" in self.text

    @property
    def tool(self) -> str:
        found = _RECIPIENT.search(self.text)
        return found[1] if found else ""


def _read_header(reader: Reader, found: str) -> Steps[_Header | None]:
    """The rest of a header that begins with `found`; None if it has no end."""
    start, parts = reader.position - len(found), [found]
    end = yield from reader.until(_HEADER_END, parts.append)
    if end != "<|message|>":
        reader.back(len(end))
        return None
    return _Header(start, "".join(parts))


def _read_message(out: Output, header: _Header) -> Steps[None]:
    reader = out.reader
    out.go_on(header.start)
    out.paragraph()
    if out.tools is not None and is_name(header.tool, out, only_offered=False):
        yield from _read_call(out, header.tool)
        end = yield from reader.until(_MESSAGE, out.content)
    elif header.is_analysis:
        out.begin_reasoning(header.start)
        end = yield from reader.until(_MESSAGE, out.reasoning)
        if end:
            out.end_reasoning()
    else:
        out.interrupt()
        end = yield from reader.until(_MESSAGE, out.content)
    if end in _BEFORE_HEADER:
        reader.back(len(end))
    else:
        reader.set_mark()


def _read_call(out: Output, name: str) -> Steps[None]:
    reader = out.reader
    yield from reader.space()
    out.begin_call(name)
    if (yield from reader.peek()) == "{":
        yield from _ARGUMENTS.pass_nested(reader, out.arguments)
    else:
        out.arguments("{}" if (yield from reader.peek()) else "")


@dataclass(frozen=True)
class Harmony:
    """A ToolParser and a ReasoningParser; either reads the whole answer."""

    name: str = "gpt_oss"
    aliases: tuple[str, ...] = ("gptoss", "openai", "openai_gptoss", "harmony")
    evidence: Evidence = Evidence(template=(("<|channel|>", "<|message|>"),), tokens=("<|channel|>",))
    markers: tuple[str, ...] = (*_ENDS, "<|message|>", "<|constrain|>")
    new_id: Callable[[], str] = new_id
    form: Form = Form(
        call="<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>ARGUMENTS<|call|>",
        trigger="<|channel|>commentary to=functions.",
    )

    def beginning(self, prompt: str) -> Beginning:
        return Beginning()

    def beginning_within(self, answer: str) -> Beginning:
        return Beginning()

    def grammar(self, beginning: Beginning) -> Grammar:
        analysis = Tag("<|channel|>analysis<|message|>", AnyText(), "<|end|>")
        return Star(Sequence([analysis, ConstString("<|start|>assistant")]))

    def as_text(self, grammar: Grammar) -> Grammar:
        return Sequence([ConstString("<|channel|>final<|message|>"), grammar])

    def read(self, out: Output, beginning: Beginning | None = None) -> Steps[None]:
        reader = out.reader
        # The prompt ends in the middle of a header, which may go on with whom the message is for.
        found = yield from reader.skip(" to=")
        while found or (found := (yield from reader.until(_HEADER, out.content))):
            header = yield from _read_header(reader, found)
            found = ""
            if header is None:
                out.content(reader.since_mark())
            else:
                yield from _read_message(out, header)


FORMAT = Harmony()
