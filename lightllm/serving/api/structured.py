"""What requests ask of the form of an answer, in the names of several servers, as one grammar."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from lightllm.base.errors import RequestError
from lightllm.base.grammar import (
    ConstString,
    ContextFree,
    Either,
    Grammar,
    JsonSchema,
    Regex,
    Tag,
    TriggeredTags,
    convert,
)
from lightllm.serving.api.body import refuse_others

FIELDS = (
    "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "regex",
    "ebnf", "json_schema",
)  # fmt: skip
ANY_OBJECT = JsonSchema({"type": "object"})


def grammar_of(fields: Mapping[str, Any]) -> Grammar | None:
    """The grammar that these fields (by name, as in READERS; empty ones count as absent) ask for.

    Raises RequestError for mistakes, and where two of them ask for something.
    """
    asked: dict[str, Grammar] = {}
    for name, value in fields.items():
        if value not in (None, "") and (grammar := READERS[name](value, name)) is not None:
            asked[name] = grammar
    if len(asked) > 1:
        raise RequestError(f"{' and '.join(asked)} exclude one another; give one", param=list(asked)[1])
    return next(iter(asked.values()), None)


def _json(value: Any, name: str) -> Grammar:
    """A JSON schema, or the text of one."""
    if isinstance(value, str):
        value = _decoded(value, name)
    if not isinstance(value, dict | bool):
        raise RequestError(f"{name} must be a JSON schema: an object, or the text of one", param=name)
    return JsonSchema(value)


def _regex(value: Any, name: str) -> Grammar:
    return Regex(_text(value, name))


def _grammar(value: Any, name: str) -> Grammar:
    return ContextFree(_text(value, name))


def _choice(value: Any, name: str) -> Grammar:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise RequestError(f"{name} must be a list of texts, at least one", param=name)
    return Either([ConstString(text) for text in value])


def _json_object(value: Any, name: str) -> Grammar | None:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false", param=name)
    return ANY_OBJECT if value else None


def _structural_tag(value: Any, name: str) -> Grammar:
    """{"type": "structural_tag", "format": {...}}, the older {"structures": [...], "triggers": [...]}, or its text."""
    if isinstance(value, str):
        value = _decoded(value, name)
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be a structural tag", param=name)
    try:
        if "structures" in value:
            old = msgspec.convert(value, _OldTag)
            tags = [Tag(each.begin, JsonSchema(each.schema), each.end) for each in old.structures]
            return TriggeredTags(old.triggers, tags)
        return convert(value.get("format", value))
    except (RequestError, msgspec.ValidationError) as error:
        raise RequestError(f"{name} is not as it must be: {error}", param=name) from None


def _structured_outputs(value: Any, name: str) -> Grammar | None:
    """An object with one of _KINDS."""
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be an object with one of {', '.join(_KINDS)}", param=name)
    for option, asked in value.items():
        if option not in _KINDS and asked not in (None, False):
            raise RequestError(f"{name}.{option} is not supported; leave it out", param=name)
    return grammar_of_kinds({kind: asked for kind, asked in value.items() if kind in _KINDS}, name)


def grammar_of_kinds(asked: Mapping[str, Any], name: str) -> Grammar | None:
    """The grammar of {"json": ...}, {"regex": ...} and so on; one at most."""
    given = {kind: value for kind, value in asked.items() if value is not None}
    if len(given) > 1:
        raise RequestError(f"{name}: {' and '.join(given)} exclude one another; give one", param=name)
    return next((_KINDS[kind](value, f"{name}.{kind}") for kind, value in given.items()), None)


def _response_format(value: Any, name: str) -> Grammar | None:
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case "text":
            refuse_others(value, ("type",), name)
            return None
        case "json_object":
            refuse_others(value, ("type", "schema"), name)
            return _json(value["schema"], f"{name}.schema") if "schema" in value else ANY_OBJECT
        case "json_schema":
            return _named_schema(value, name)
        case "structural_tag":
            return _structural_tag(value, name)
    raise RequestError(
        f"{name}.type={str(kind)[:100]!r}; use text, json_object, json_schema or structural_tag", param=name
    )


def _named_schema(value: dict[str, Any], name: str) -> Grammar:
    """{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}, or all of it on one level."""
    place, inner = f"{name}.json_schema", value
    if "json_schema" in value:
        refuse_others(value, ("type", "json_schema"), name)
        inner = value["json_schema"]
    if not isinstance(inner, dict) or "schema" not in inner:
        raise RequestError(f"{place}.schema is missing", param=name)
    # What it is called and what it is for is said for people.
    refuse_others(inner, ("name", "description", "schema", "strict", *(["type"] if inner is value else [])), place)
    return _json(inner["schema"], f"{place}.schema")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a text", param=name)
    return value


def _decoded(text: str, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise RequestError(f"{name} is not valid JSON: {error}", param=name) from None


class _OldStructure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    begin: str
    end: str
    schema: dict[str, Any] | bool = True


class _OldTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    structures: list[_OldStructure]
    triggers: list[str]
    type: str = "structural_tag"


_KINDS: dict[str, Callable[[Any, str], Grammar | None]] = {
    "json": _json,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
    "json_object": _json_object,
    "structural_tag": _structural_tag,
}
READERS: dict[str, Callable[[Any, str], Grammar | None]] = {
    "response_format": _response_format,
    "structured_outputs": _structured_outputs,
    "guided_json": _json,
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "regular_constraint": _regex,
    "regex": _regex,
    "ebnf": _grammar,
    "json_schema": _json,
}
