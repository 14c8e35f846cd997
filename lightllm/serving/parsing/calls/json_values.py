"""JSON as models write it: read as far as it goes, passed on as it stands, right or wrong."""

import json
import re
from typing import Any

from lightllm.serving.parsing.reader import Markers, Reader, Sink, Steps

_IN_STRING = Markers(['"', "\\"])
_BRACKETS = ('"', "{", "}", "[", "]")
_SCALAR = re.compile(r'[^\s,"{}\[\]<]*')


class Values:
    """Reads values, which one of `ends` outside a string cuts short."""

    def __init__(self, ends: tuple[str, ...] = ()):
        self._structure = Markers([*_BRACKETS, *ends])

    def pass_any(self, reader: Reader, sink: Sink) -> Steps[None]:
        """A value of any kind; nothing if there is none."""
        first = yield from reader.peek()
        if first in ("{", "["):
            yield from self.pass_nested(reader, sink)
        elif first == '"':
            sink((yield from reader.take()))
            yield from _pass_string(reader, sink)
        else:
            sink((yield from reader.run(_SCALAR)))

    def pass_nested(self, reader: Reader, sink: Sink) -> Steps[None]:
        """An object or a list, up to the bracket that closes it. What is between brackets may be wrong."""
        depth = 0
        while True:
            found = yield from reader.until(self._structure, sink)
            if found not in _BRACKETS:
                reader.back(len(found))
                return
            sink(found)
            if found == '"':
                yield from _pass_string(reader, sink)
            else:
                depth += 1 if found in "{[" else -1
                if depth <= 0:
                    return


def _pass_string(reader: Reader, sink: Sink) -> Steps[bool]:
    """The rest of a string after its first quote. Returns whether it has an end."""
    while (found := (yield from reader.until(_IN_STRING, sink))) == "\\":
        sink(found + (yield from reader.take()))
    sink(found)
    return bool(found)


def string(reader: Reader) -> Steps[str | None]:
    """Reads a string and returns what it says; None if there is none, or a wrong one."""
    if not (yield from reader.skip('"')):
        return None
    parts = ['"']
    if not (yield from _pass_string(reader, parts.append)):
        return None
    try:
        return json.loads("".join(parts), strict=False)
    except ValueError:
        return None


def is_sendable(text: str) -> bool:
    """Whether UTF-8 can say it. JSON can name half a surrogate pair, which no text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def written(value: Any) -> str:
    """A value as JSON that can be read and sent."""
    text = json.dumps(value, ensure_ascii=False)
    return text if is_sendable(text) else json.dumps(value)


def unquoted(text: str) -> str:
    """What a string says; one that is wrong or cannot be sent stays as it is."""
    try:
        said = json.loads(text, strict=False)
    except ValueError:
        return text
    return said if isinstance(said, str) and is_sendable(said) else text
