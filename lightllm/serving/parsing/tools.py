"""Calls of tools among text. What tells one from the other is data: a ToolFormat."""

from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Protocol

from lightllm.serving.parsing.calls.call import CallGrammar
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Markers, Steps


class ToolParser(Protocol):
    """How a family of models calls tools."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]:
        """Names that other servers give it."""
        ...

    @property
    def evidence(self) -> Evidence: ...
    @property
    def markers(self) -> tuple[str, ...]:
        """What must be seen of an answer, special tokens or not."""
        ...

    @property
    def form(self) -> Form:
        """How calls are written."""
        ...

    @property
    def new_id(self) -> Callable[[], str]:
        """Makes ids of calls such as the family's chat templates take."""
        ...

    def read(self, out: Output) -> Steps[None]:
        """The rest of an answer."""
        ...


def new_id() -> str:
    """As OpenAI's."""
    return f"call_{token_hex(12)}"


@dataclass(frozen=True)
class ToolFormat:
    """A ToolParser for calls that stand among text.

    A call follows one of `opening`, or begins with one of `begins`, or `is_bare`: the answer begins with it. After a
    call that is not bare each of `closing` is dropped once; all else that is no call is text for the user, markers too.
    """

    name: str
    call: CallGrammar
    form: Form
    evidence: Evidence = Evidence()
    opening: tuple[str, ...] = ()
    begins: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    is_bare: bool = False
    shown: tuple[str, ...] = ()  # other marks that `call` looks for
    aliases: tuple[str, ...] = ()
    new_id: Callable[[], str] = new_id
    _markers: Markers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_markers", Markers([*self.opening, *self.begins, *self.closing]))

    @property
    def markers(self) -> tuple[str, ...]:
        return (*self._markers.strings, *self.shown)

    def read(self, out: Output) -> Steps[None]:
        reader = out.reader
        due: tuple[str, ...] = ()
        if self.is_bare:
            yield from self._read_call(out)
        while found := (yield from reader.until(self._markers, out.content)):
            if found in due:
                due = tuple(marker for marker in due if marker != found)
                out.interrupt()
            elif found in self.closing:
                out.content(found)
            else:
                if found in self.begins:
                    reader.back(len(found))
                if (yield from self._read_call(out)):
                    due = self.closing

    def _read_call(self, out: Output) -> Steps[bool]:
        """Reads the calls that begin here; what turns out to be none is text. Returns whether there was one."""
        before = out.num_calls
        yield from out.reader.space()
        yield from self.call.read(out)
        out.content(out.reader.since_mark())
        return out.num_calls > before
