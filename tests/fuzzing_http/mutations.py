"""Bodies made wrong: other types, numbers that are none, broken bytes, names twice, endless nesting."""

import json
import random
from typing import Any

DEEP = 100_000
_PIECES = [b"\xff", b"\x00", b"\xf0\x9f", b"\\", b'"', b"}", b",", b"\xef\xbb\xbf"]


class Raw:
    """Bytes that stand in JSON as they are."""

    def __init__(self, data: bytes):
        self.data = data


class Pairs(list[tuple[str, Any]]):
    """An object that may have a name twice."""


HOSTILE: list[Any] = [
    *(Raw(text) for text in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"01", b"+1", b".5")),
    *(Raw(str(number).encode()) for number in (2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30)),
    Raw(b"9" * 400),
    Raw(b"9" * 5000),
    Raw(b'"\\ud800"'),
    Raw(b'"\\udc00 \\ud800x"'),
    Raw(b'"\xff\xfe"'),
    Raw(b'"\xed\xa0\x80"'),
    Raw(b'"\xc0\xaf"'),
    Raw(b'"a\nb"'),
    Raw(b'"a\x00b"'),
    Raw(b"[" * DEEP + b"]" * DEEP),
    Raw(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    Raw(b"[" * 100 + b"]" * 100),
    Raw(b'{"a": 1, "a": 2}'),
    Raw(b""),
    Raw(b"nul"),
    Raw(b"'a'"),
    *(None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 5e-324, 1.0),
    *("", "a", "\x00", "\u202e\x1b[2J\u2028", "a" * 20_000, "1", "true", "null", "../../etc/passwd", "{{ 7 * 7 }}"),
    *([], {}, [[]], [None], [0, "a", None], [-1], [2**31 - 1], ["a"] * 2000, {"a": {}}, {"": 0}, {"type": "none"}),
]


def encoded(value: Any) -> bytes:
    """JSON, but for what is Raw in it."""
    match value:
        case Raw():
            return value.data
        case Pairs():
            return b"{" + b", ".join([json.dumps(name).encode() + b": " + encoded(one) for name, one in value]) + b"}"
        case dict():
            return encoded(Pairs(value.items()))
        case list():
            return b"[" + b", ".join(map(encoded, value)) + b"]"
    return json.dumps(value).encode()


def with_value(body: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """`body` with another value at a place; what is missing on the way there is made."""
    if not place:
        return value
    first, *rest = place
    if isinstance(first, int):
        others = list(body) if isinstance(body, list) else []
        return [with_value(others[0] if others else None, tuple(rest), value), *others[1:]]
    fields = dict(body) if isinstance(body, dict) else {}
    return fields | {first: with_value(fields.get(first), tuple(rest), value)}


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes of a body, broken somewhere."""
    at = draw.randrange(len(data) + 1)
    match draw.randrange(9):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + draw.choice(_PIECES) + data[at:]
        case 3:
            return data[at:]
        case 4:
            return data + draw.choice([b"{}", b"]", b"\x00", b",", b" x", data])
        case 5:
            return data.decode().encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"]))
        case 6:
            return data.replace(b": ", b":: ", 1)
        case 7:
            return data.replace(b'"', b"'", draw.randrange(1, 4))
        case _:
            return bytes(draw.randrange(256) for _ in range(draw.randrange(200)))


def repeated_name(body: dict[str, Any], draw: random.Random) -> Pairs:
    """The object with one of its names twice."""
    pairs = Pairs(body.items()) or Pairs([("model", None)])
    pairs.insert(draw.randrange(len(pairs) + 1), draw.choice(pairs))
    return pairs


def strictly_parsed(data: bytes) -> Any:
    """The value of JSON as RFC 8259 and this server have it. Raises ValueError or RecursionError for anything else."""
    value = json.loads(data.decode(), object_pairs_hook=_names_once, parse_constant=_no_constant, parse_float=_finite)
    json.dumps(value, ensure_ascii=False).encode()  # lone surrogates
    return value


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    if abs(number := float(text)) == float("inf"):
        raise ValueError("the number is no double")
    return number
