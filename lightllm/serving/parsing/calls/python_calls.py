"""Calls in Python's syntax: [f(a=1, b="x"), g()]. A call is taken when it is whole, as Python has no half literals."""

import ast
import json
import warnings
from dataclasses import dataclass
from typing import Any

from lightllm.serving.parsing.calls.call import is_name
from lightllm.serving.parsing.calls.json_values import is_sendable
from lightllm.serving.parsing.calls.named_call import NAME
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Markers, Reader, Sink, Steps

_QUOTES = ("'''", '"""', "'", '"')
_STRUCTURE = Markers([*_QUOTES, *"()[]{}"])
_IN_STRING = {quote: Markers([quote, "\\"]) for quote in _QUOTES}
_JSON_NAMES = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class PythonCalls:
    """One call, or a list of them. Only tools that were offered are called so: other text looks like this, too."""

    def read(self, out: Output) -> Steps[None]:
        reader = out.reader
        is_list = yield from reader.skip("[")
        yield from reader.space()
        while (yield from self._read_call(out)):
            yield from reader.space()
            yield from reader.skip(",")
            yield from reader.space()
            if is_list and (yield from reader.skip("]")):
                reader.set_mark()
                return

    def _read_call(self, out: Output) -> Steps[bool]:
        reader = out.reader
        name = yield from reader.run(NAME)
        if not is_name(name, out, only_offered=True) or (yield from reader.peek()) != "(":
            return False
        parts: list[str] = []
        yield from _pass_brackets(reader, parts.append)
        arguments = _arguments("".join(parts))
        if arguments is None:
            return False
        out.begin_call(name)
        out.arguments(arguments)
        return True


def _pass_brackets(reader: Reader, sink: Sink) -> Steps[None]:
    """What brackets hold, up to the one that closes the first."""
    depth = 0
    while found := (yield from reader.until(_STRUCTURE, sink)):
        sink(found)
        if found in _QUOTES:
            yield from _pass_string(reader, found, sink)
        else:
            depth += 1 if found in "([{" else -1
            if depth <= 0:
                return


def _pass_string(reader: Reader, quote: str, sink: Sink) -> Steps[None]:
    while (found := (yield from reader.until(_IN_STRING[quote], sink))) == "\\":
        sink(found + (yield from reader.take()))
    sink(found)


def _arguments(source: str) -> str | None:
    """Keyword arguments in brackets, as JSON; None if they are anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that Python would not write so
            call = ast.parse(f"f{source}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        values = {keyword.arg: _value(keyword.value) for keyword in call.keywords}
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        return text if is_sendable(text) and None not in values else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> Any:
    """A literal's value; JSON's true, false and null count as literals. Raises ValueError, TypeError."""
    match node:
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
    return ast.literal_eval(node)


def _key(node: ast.expr | None) -> str:
    key = None if node is None else ast.literal_eval(node)
    if not isinstance(key, str):
        raise ValueError("keys of JSON objects are strings")
    return key
