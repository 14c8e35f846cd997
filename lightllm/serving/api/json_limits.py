"""What JSON may not be although a parser would take it: nested too deeply, or with the same name twice."""

import json

import numpy as np

from lightllm.base.errors import RequestError
from lightllm.serving.api.printable import printable

DEEPEST = 128
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, bytes([1, 255, 1, 255]))  # as int8: one level in, one level out


def check_depth(data: bytes) -> None:
    """Before anything parses it. Raises RequestError."""
    if data.count(b"[") + data.count(b"{") > DEEPEST and depth(data) > DEEPEST:
        raise RequestError(f"the body is nested more than {DEEPEST} levels deep")


def depth(data: bytes) -> int:
    """Levels of nesting; in bytes that are no JSON, any number."""
    # Without escaped characters a string ends at the next quote, so every other piece lies outside of strings.
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    steps = np.frombuffer(outside.translate(_STEPS, _NO_BRACKETS), dtype=np.int8)
    return max(0, int(steps.cumsum(dtype=np.int64).max(initial=0)))


def check_names(data: bytes) -> None:
    """Raises RequestError where an object of valid JSON has a name twice: parsers differ in which value they take."""
    json.loads(data, object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        name = printable(next(name for name in fields if names.count(name) > 1), 100)
        raise RequestError(f"the field {name!r} is there more than once; leave one of them", param=name)
    return fields
