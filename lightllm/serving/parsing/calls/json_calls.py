"""Calls that are JSON objects: {"name": ..., "arguments": {...}}, one, several, or a list of them."""

from dataclasses import dataclass, field

from lightllm.serving.parsing.calls import json_values
from lightllm.serving.parsing.calls.call import is_name
from lightllm.serving.parsing.calls.json_values import Values
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Steps

_NAMES = ("name", "function")
_ARGUMENTS = ("arguments", "parameters")
_SEPARATORS = (",", ";")


@dataclass
class _Call:
    """What is known of a call while its object is read."""

    name: str | None = None
    arguments: str | None = None  # where they come before the name
    is_begun: bool = False


@dataclass(frozen=True)
class JsonCalls:
    """`ends` cut short arguments without an end. Members may have any order; those of other names are skipped.

    The object may also hold its name and arguments one level down: {"type": "function", "function": {...}}.
    """

    ends: tuple[str, ...] = ()
    only_offered: bool = False
    _values: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_values", Values(self.ends))

    def read(self, out: Output) -> Steps[None]:
        reader = out.reader
        is_list = yield from reader.skip("[")
        yield from reader.space()
        while (yield from self._read_call(out)):
            yield from reader.space()
            yield from reader.skip(*_SEPARATORS)
            yield from reader.space()
            if is_list and (yield from reader.skip("]")):
                reader.set_mark()
                return

    def _read_call(self, out: Output) -> Steps[bool]:
        """One object. Returns whether it is a call and whole."""
        call = _Call()
        if not (yield from self._read_object(out, call, is_inner=False)):
            return False
        if not call.is_begun:
            if call.name is None:
                return False
            out.begin_call(call.name)
            out.arguments(call.arguments or "{}")
        out.reader.set_mark()
        return True

    def _read_object(self, out: Output, call: _Call, *, is_inner: bool) -> Steps[bool]:
        """Returns whether it has an end and nothing in it is wrong."""
        reader = out.reader
        if not (yield from reader.skip("{")):
            return False
        while True:
            yield from reader.space()
            key = yield from json_values.string(reader)
            yield from reader.space()
            if key is None or not (yield from reader.skip(":")):
                return False
            yield from reader.space()
            if not (yield from self._read_member(out, call, key, is_inner=is_inner)):
                return False
            yield from reader.space()
            separator = yield from reader.skip(",", "}")
            if separator != ",":
                return separator == "}"

    def _read_member(self, out: Output, call: _Call, key: str, *, is_inner: bool) -> Steps[bool]:
        reader = out.reader
        first = yield from reader.peek()
        if key in _NAMES and first == '"' and call.name is None:
            call.name = yield from json_values.string(reader)
            return is_name(call.name, out, only_offered=self.only_offered)
        if key == "function" and first == "{" and not is_inner:
            return (yield from self._read_object(out, call, is_inner=True))
        if key in _ARGUMENTS and not call.is_begun and call.arguments is None:
            yield from self._read_arguments(out, call, first)
        else:
            yield from self._values.pass_any(reader, _drop)
        return True

    def _read_arguments(self, out: Output, call: _Call, first: str) -> Steps[None]:
        if call.name is not None and first == "{":
            out.begin_call(call.name)
            call.is_begun = True
            yield from self._values.pass_nested(out.reader, out.arguments)
            return
        parts: list[str] = []
        yield from self._values.pass_any(out.reader, parts.append)
        call.arguments = _as_object("".join(parts))


def _drop(text: str) -> None:
    pass


def _as_object(value: str) -> str:
    """Arguments that are no object as they stand: a string that holds one, or nothing at all."""
    if value in ("", "null", '""'):
        return "{}"
    if value.startswith('"'):
        return json_values.unquoted(value)
    return value
