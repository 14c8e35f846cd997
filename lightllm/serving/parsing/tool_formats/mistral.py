"""Mistral: [TOOL_CALLS] [{"name": NAME, "arguments": {...}}, ...], from 2025 on [TOOL_CALLS]NAME[ARGS]{...}.

An id may stand between name and arguments: NAME[CALL_ID]ID[ARGS]{...}.
"""

import string
from dataclasses import dataclass
from secrets import choice

from lightllm.serving.parsing.calls.json_calls import JsonCalls
from lightllm.serving.parsing.calls.named_call import NamedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Steps
from lightllm.serving.parsing.tools import ToolFormat

_OPENING = ("[TOOL_CALLS]",)
_MARKS = ("[CALL_ID]", "[ARGS]")


@dataclass(frozen=True)
class _EitherForm:
    """The old form begins with a bracket."""

    old = JsonCalls(ends=_OPENING)
    new = NamedCall(before_id=_MARKS[0], after=_MARKS[1:], ends=_OPENING)

    def read(self, out: Output) -> Steps[None]:
        yield from out.reader.space()
        is_old = (yield from out.reader.peek()) in ("[", "{")
        yield from (self.old if is_old else self.new).read(out)


def _new_id() -> str:
    """The templates take ids of nine letters and digits only."""
    return "".join(choice(string.ascii_letters + string.digits) for _ in range(9))


FORMAT = ToolFormat(
    name="mistral",
    evidence=Evidence(template=(_OPENING,), tokens=_OPENING),
    opening=_OPENING,
    call=_EitherForm(),
    form=Form(
        call='{"name": NAME, "arguments": ARGUMENTS}',
        first="[TOOL_CALLS] [",
        between=", ",
        last="]",
        trigger="[TOOL_CALLS]",
    ),  # fmt: skip
    shown=_MARKS,
    new_id=_new_id,
)
