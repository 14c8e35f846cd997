"""A call whose arguments stand one by one between tags, strings as they are and everything else as JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

from lightllm.serving.parsing.calls.call import is_name
from lightllm.serving.parsing.calls.json_values import written
from lightllm.serving.parsing.calls.named_call import NAME
from lightllm.serving.parsing.calls.schema_types import types_of
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Markers, Reader, Sink, Steps

_PYTHON = {"True": "true", "False": "false", "None": "null"}
_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


@dataclass(frozen=True)
class TaggedCall:
    """The name stands between the two of `name`, a key between those of `key`, its value between those of `value`.

    `end` closes the call. With `is_on_lines` a line break at either end of a value belongs to the tags.
    """

    name: tuple[str, str]
    key: tuple[str, str]
    value: tuple[str, str]
    end: str
    is_on_lines: bool = False
    _key_end: Markers = field(init=False)
    _value_end: Markers = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key_end", Markers([self.key[1]]))
        object.__setattr__(self, "_value_end", Markers([self.value[1]]))

    def read(self, out: Output) -> Steps[None]:
        reader = out.reader
        before, after = self.name
        if before and not (yield from reader.skip(before)):
            return
        yield from reader.space()
        name = yield from reader.run(NAME)
        yield from reader.space()
        if not is_name(name, out, only_offered=False) or (after and not (yield from reader.skip(after))):
            return
        yield from reader.space()
        found = yield from reader.skip(self.key[0], self.end)
        if not found and not after:
            return
        out.begin_call(name)
        yield from self._read_arguments(out, name, found)

    def _read_arguments(self, out: Output, name: str, found: str) -> Steps[None]:
        """`found` is what stands after the name: the tag before a key, the end, or neither."""
        reader, separator = out.reader, "{"
        types = types_of((out.tools or {}).get(name))
        while found == self.key[0]:
            reader.set_mark()
            parts: list[str] = []
            if not (yield from reader.until(self._key_end, parts.append)):
                out.arguments(separator + written("".join(parts))[:-1])
                return
            yield from reader.space()
            if self.value[0] and not (yield from reader.skip(self.value[0])):
                break
            key = "".join(parts).strip()
            out.arguments(f"{separator}{written(key)}: ")
            if not (yield from self._read_value(out, types.get(key, frozenset()))):
                return
            separator = ", "
            yield from reader.space()
            found = yield from reader.skip(self.key[0], self.end)
        if found == self.end or (yield from reader.peek()):
            rest = "" if found == self.end else reader.since_mark()
            out.arguments("{}" if separator == "{" else "}")
            out.content(rest)

    def _read_value(self, out: Output, types: frozenset[str]) -> Steps[bool]:
        """Returns whether the value has an end."""
        reader = out.reader
        if self.is_on_lines:
            yield from reader.skip("\n")
        if types == {"string"}:
            out.arguments('"')
            is_whole = yield from self._until_end(reader, lambda text: out.arguments(written(text)[1:-1]))
            out.arguments('"' if is_whole else "")
            return is_whole
        parts: list[str] = []
        is_whole = yield from self._until_end(reader, parts.append)
        text = "".join(parts)
        out.arguments(_converted(text, types) if is_whole else text)
        return is_whole

    def _until_end(self, reader: Reader, sink: Sink) -> Steps[bool]:
        """The value's text. Returns whether it has an end."""
        held = ""

        def pass_line(text: str) -> None:
            nonlocal held
            text = held + text
            held = "\n" if text.endswith("\n") else ""
            sink(text.removesuffix("\n"))

        return bool((yield from reader.until(self._value_end, pass_line if self.is_on_lines else sink)))


def _converted(text: str, types: frozenset[str]) -> str:
    """A value as JSON: what is JSON of one of `types`, all if there are none, stays; the rest is a string."""
    stripped = text.strip()
    stripped = _PYTHON.get(stripped, stripped)
    try:
        value = json.loads(stripped, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return written(text)
    if "string" in types and not _is_of(value, types - {"string"}):
        return written(text)
    return stripped


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _is_of(value: Any, types: frozenset[str]) -> bool:
    name = "null" if value is None else _TYPES[type(value)]
    return name in types or (name == "integer" and "number" in types)
