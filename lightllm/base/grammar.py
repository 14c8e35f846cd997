"""What an answer must look like: one form for all that clients ask, whichever engine enforces it.

The wire form is that of structural tags: objects with a `type`, one of those below. In texts of `const_string`, `begin`
and `end` the names of special tokens stand for these tokens.
"""

import re
from itertools import accumulate
from typing import Any, TypeAlias, Union

import msgspec

from lightllm.base.errors import RequestError

MOST_BYTES = 1 << 18  # of an encoded grammar
_MOST_LEVELS = 100  # of a grammar's JSON
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_OTHERS = bytes(set(range(256)) - set(b"{}[]"))


class Part(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", forbid_unknown_fields=True):
    """Base of all that a grammar is made of."""


class ConstString(Part, frozen=True, tag="const_string"):
    value: str


class JsonSchema(Part, frozen=True, tag="json_schema"):
    """JSON that the schema holds for; {"type": "object"} is any object. Of one that is not strict, what no engine knows
    is left out."""

    json_schema: dict[str, Any] | bool
    strict: bool = True


class Regex(Part, frozen=True, tag="regex"):
    """Text that the pattern matches as a whole."""

    pattern: str


class ContextFree(Part, frozen=True, tag="grammar"):
    """A grammar in Lark's notation, or in EBNF as llama.cpp writes it (GBNF)."""

    grammar: str


class AnyText(Part, frozen=True, tag="any_text"):
    """Any text; within a tag any up to the tag's end."""


class Sequence(Part, frozen=True, tag="sequence"):
    elements: list["Grammar"]


class Either(Part, frozen=True, tag="or"):
    elements: list["Grammar"]


class Optional(Part, frozen=True, tag="optional"):
    content: "Grammar"


class Star(Part, frozen=True, tag="star"):
    content: "Grammar"


class Plus(Part, frozen=True, tag="plus"):
    content: "Grammar"


class Tag(Part, frozen=True, tag="tag"):
    begin: str
    content: "Grammar"
    end: str


class TriggeredTags(Part, frozen=True, tag="triggered_tags"):
    """Any text, but where one of `triggers` occurs, one of the tags has to begin with it."""

    triggers: list[str]
    tags: list[Tag]
    at_least_one: bool = False
    stop_after_first: bool = False


class TagsWithSeparator(Part, frozen=True, tag="tags_with_separator"):
    """Tags and nothing else."""

    tags: list[Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


Grammar: TypeAlias = Union[  # noqa: UP007  (the parts refer to it before it is there)
    ConstString, JsonSchema, Regex, ContextFree, AnyText, Sequence, Either, Optional, Star, Plus, Tag, TriggeredTags,
    TagsWithSeparator,
]  # fmt: skip

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Grammar)


def encode(grammar: Grammar) -> bytes:
    """Equal grammars have equal bytes. Raises RequestError for one that is too large or nested too deeply."""
    try:
        data = _encoder.encode(grammar)
    except (RecursionError, UnicodeEncodeError, TypeError, OverflowError) as error:
        raise RequestError(f"the grammar cannot be written as JSON: {error}") from None
    if len(data) > MOST_BYTES:
        raise RequestError(f"the grammar has {len(data)} bytes; {MOST_BYTES} are allowed: make it smaller")
    if (levels := _levels(data)) > _MOST_LEVELS:
        raise RequestError(f"the grammar is nested {levels} levels deep; {_MOST_LEVELS} are allowed")
    return data


def decode(data: bytes) -> Grammar:
    """What `encode` wrote, or a client did. Raises RequestError that names the place of a mistake."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"it is no structural tag: {error}") from None


def convert(value: Any) -> Grammar:
    """A grammar from decoded JSON. Raises RequestError as `decode`."""
    try:
        return msgspec.convert(value, Grammar)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RequestError(f"it is no structural tag: {error}") from None


def _levels(data: bytes) -> int:
    """How many brackets of valid JSON are open at once."""
    brackets = _STRING.sub(b"", data).translate(None, _OTHERS)
    return max(accumulate(1 if bracket in b"{[" else -1 for bracket in brackets), default=0)
