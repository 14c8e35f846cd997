"""A call that is a name followed by a JSON object of arguments, with marks around either."""

import re
from dataclasses import dataclass, field

from lightllm.serving.parsing.calls.call import is_name
from lightllm.serving.parsing.calls.json_values import Values
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Reader, Steps

NAME = re.compile(r"""[^\s<>{}()"'`,;=\[\]]*""")


@dataclass(frozen=True)
class NamedCall:
    """`before` must stand before the name; marks `after` it and `behind` the arguments are skipped where they stand.

    `before_id` goes between the name and an id that the model gives the call.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    before_id: str = ""
    ends: tuple[str, ...] = ()
    only_offered: bool = False
    _values: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_values", Values(self.ends))

    def read(self, out: Output) -> Steps[None]:
        reader, id = out.reader, None
        for mark in self.before:
            if not (yield from reader.skip(mark)):
                return
            yield from reader.space()
        name = yield from reader.run(NAME)
        if not is_name(name, out, only_offered=self.only_offered):
            return
        if self.before_id and (yield from reader.skip(self.before_id)):
            id = yield from reader.run(NAME)
        yield from _skip_all(reader, self.after)
        if (yield from reader.peek()) != "{":
            return
        out.begin_call(name, id or None)
        yield from self._values.pass_nested(reader, out.arguments)
        yield from _skip_all(reader, self.behind)
        reader.set_mark()


def _skip_all(reader: Reader, marks: tuple[str, ...]) -> Steps[None]:
    """Reads white space and those of these marks that stand there."""
    yield from reader.space()
    for mark in marks:
        yield from reader.skip(mark)
        yield from reader.space()
