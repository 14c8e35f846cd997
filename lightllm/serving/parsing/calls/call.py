"""How one call of a tool, or several in a row, are written: the interface."""

from typing import Protocol

from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Steps


class CallGrammar(Protocol):
    """Reads calls where one may begin, gives them to `out`, and stops at the first character that is no part of one.

    Nothing is a call before its name is certain; what was read until then and is none stays behind the reader's mark.
    """

    def read(self, out: Output) -> Steps[None]: ...


def is_name(name: str | None, out: Output, *, only_offered: bool) -> bool:
    """Whether a tool could have this name; where calls are not marked as such, whether a tool has it."""
    if not name or not name.isprintable():
        return False
    return not (only_offered or out.only_offered) or name in (out.tools or {})
