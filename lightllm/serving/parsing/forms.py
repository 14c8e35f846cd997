"""How calls of tools are written, as grammars: so that an answer can be held to them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightllm.base import grammar as parts
from lightllm.base.errors import RequestError
from lightllm.base.grammar import (
    ConstString,
    Either,
    Grammar,
    JsonSchema,
    Optional,
    Regex,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
)
from lightllm.serving.parsing.calls.schema_types import types_of

NAME, ARGUMENTS = "NAME", "ARGUMENTS"
_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}
# What of a schema of parameters can be enforced where these stand one by one.
_ONE_BY_ONE = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "definitions"})
_ANNOTATIONS = frozenset({"title", "description", "default", "examples", "$schema", "$comment", "deprecated"})
_OF_RAW_TEXT = frozenset({"type", "enum", "const"})


@dataclass(frozen=True)
class Tool:
    """`parameters` is the JSON schema of its arguments. A strict one's is enforced whole, or refused."""

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool = False

    def schema(self, schema: Mapping[str, Any]) -> JsonSchema:
        """JSON of a part of its arguments, or of all."""
        shared = {name: self.parameters[name] for name in ("$defs", "definitions") if name in self.parameters}
        return JsonSchema({**schema, **shared}, strict=self.is_strict)

    def properties(self) -> list[tuple[str, Mapping[str, Any], bool]]:
        """Name, schema and whether it is required, of each parameter; required ones first. Raises RequestError."""
        refuse_others(self, self.parameters, _ONE_BY_ONE | _ANNOTATIONS)
        known: Mapping[str, Any] = self.parameters.get("properties") or {}
        required = list(dict.fromkeys(self.parameters.get("required") or []))
        if unknown := [name for name in required if name not in known]:
            raise RequestError(f"the tool {self.name!r} requires {unknown[0]!r}, which is no property", param="tools")
        names = required + [name for name in known if name not in required and known[name] is not False]
        if impossible := [name for name in required if known[name] is False]:
            raise self.unsatisfiable(impossible[0])
        return [(name, known[name] if isinstance(known[name], dict) else {}, name in required) for name in names]

    def unsatisfiable(self, name: str) -> RequestError:
        """Of a parameter of this name."""
        return RequestError(f"nothing satisfies the schema of {name!r} of the tool {self.name!r}", param="tools")


def refuse_others(tool: Tool, schema: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raises RequestError if a strict tool's schema says what its model's form of calls cannot be held to."""
    others = sorted(set(schema) - known)
    if tool.is_strict and others:
        raise RequestError(
            f"the tool {tool.name!r} is strict, and {others[0]!r} of its parameters cannot be enforced in the form in "
            "which this model calls tools; leave it out, or make strict false",
            param="tools",
        )


def as_json(tool: Tool) -> Grammar:
    """All arguments as one JSON object."""
    return tool.schema({"type": "object", **tool.parameters} if tool.parameters else _NO_ARGUMENTS)


def as_keywords(tool: Tool) -> Grammar:
    """KEY=JSON, KEY=JSON."""
    written: list[Grammar] = []
    optional: Grammar | None = None
    for name, schema, is_required in reversed(tool.properties()):
        one: Grammar = parts.Sequence([ConstString(f"{name}="), tool.schema(schema)])
        if is_required:
            written.insert(0, one)
        else:
            rest = [] if optional is None else [Optional(parts.Sequence([ConstString(", "), optional]))]
            with_rest = parts.Sequence([one, *rest])
            optional = with_rest if optional is None else Either([with_rest, optional])
    separated = [item for one in written for item in (ConstString(", "), one)][1:]
    if optional is not None:
        separated.append(Optional(parts.Sequence([ConstString(", "), optional]) if written else optional))
    return parts.Sequence(separated)


def one_by_one(before: str, between: str, after: str) -> Callable[[Tool], Grammar]:
    """Each argument between marks of its own: strings as they are, everything else as JSON."""

    def arguments(tool: Tool) -> Grammar:
        types = types_of(tool.parameters)
        written: list[Grammar] = []
        for name, schema, is_required in tool.properties():
            is_text = types.get(name) == {"string"}
            value = _raw_text(tool, name, schema) if is_text else tool.schema(schema)
            one = Tag(f"{before}{name}{between}", value, after)
            written.append(one if is_required else Optional(one))
        return parts.Sequence(written)

    return arguments


def _raw_text(tool: Tool, name: str, schema: Mapping[str, Any]) -> Grammar:
    refuse_others(tool, schema, _OF_RAW_TEXT | _ANNOTATIONS)
    if not schema.keys() & {"enum", "const"}:
        return parts.AnyText()
    values = schema["enum"] if isinstance(schema.get("enum"), list) else [schema.get("const")]
    texts = [text for text in values if isinstance(text, str) and schema.get("const", text) == text]
    if not texts:
        raise tool.unsatisfiable(name)
    return Either([ConstString(text) for text in texts])


@dataclass(frozen=True)
class Form:
    """`call` has NAME and ARGUMENTS in it. `first`, `between` and `last` stand around all calls of an answer.

    `trigger`: with what a call begins among text. Without one an answer that begins with a character of `first_letters`
    is a call; where there are none of these either, nobody can tell before it is read.
    """

    call: str
    arguments: Callable[[Tool], Grammar] = as_json
    first: str = ""
    between: str = "\n"
    last: str = ""
    trigger: str = ""
    first_letters: str = ""

    def calls(self, tools: Sequence[Tool], *, several: bool) -> Grammar:
        """At least one call and nothing else."""
        calls = self._in_a_row(self._all(tools), several=several)
        return Tag(self.first, calls, self.last) if self.first else calls

    def among_text(self, tools: Sequence[Tool], *, several: bool) -> Grammar | None:
        """Text in which calls are right; None where that cannot be enforced."""
        if self.trigger:
            tags = self._all(tools)
            if self.first:
                tags = [Tag(self.first, self._in_a_row(tags, several=several), self.last)]
            return TriggeredTags([self.trigger], tags, stop_after_first=not several)
        if self.first_letters:
            return Either([self.calls(tools, several=several), Regex(f"([^{self.first_letters}\\s](.|\\n)*)?")])
        return None

    def _in_a_row(self, tags: list[Tag], *, several: bool) -> Grammar:
        return TagsWithSeparator(tags, self.between, at_least_one=True, stop_after_first=not several)

    def _all(self, tools: Sequence[Tool]) -> list[Tag]:
        return [self._one(tool) for tool in tools]

    def _one(self, tool: Tool) -> Tag:
        begin, _, end = self.call.partition(ARGUMENTS)
        name = json.dumps(tool.name, ensure_ascii=False) if f'"name": {NAME}' in self.call else tool.name
        return Tag(begin.replace(NAME, name), self.arguments(tool), end)
