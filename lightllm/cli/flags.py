"""Flags from a config struct: names, help, choices and defaults are written there once."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import inspect


def add_flags(parser: argparse.ArgumentParser, kind: type[msgspec.Struct]) -> None:
    """Adds a flag for each field. What is not given is absent from the result; values stay text, for `config.parse`."""
    about = inspect.type_info(kind)
    assert isinstance(about, inspect.StructType), "configs are structs"
    for field in about.fields:
        parser.add_argument(
            f"--{field.name}", default=argparse.SUPPRESS, help=_help(field), **_form(_without_none(field.type))
        )


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """The arguments with dashes in flags as underscores: both are the same."""
    return [_with_underscores(argument) for argument in arguments]


def _with_underscores(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _choice(text: str, words: Sequence[str]) -> str:
    """The one of `words` that is written so, with dashes or with underscores; the text itself if none is."""
    return next((word for word in words if word.replace("-", "_") == text.replace("-", "_")), text)


def _form(kind: inspect.Type) -> dict[str, Any]:
    """How argparse is to read values of a type."""
    match kind:
        case inspect.BoolType():
            return {"action": "store_true"}
        case inspect.LiteralType(values):
            words = [str(value) for value in values]
            return {"choices": words, "type": partial(_choice, words=words)}
        case inspect.ListType(item_type):
            return {
                "nargs": "+",
                "action": "extend",
                "metavar": "N" if isinstance(item_type, inspect.IntType) else "TEXT",
            }
        case inspect.IntType():
            return {"metavar": "N"}
        case inspect.FloatType():
            return {"metavar": "X"}
        case inspect.StrType():
            return {"metavar": "TEXT"}
    raise AssertionError(f"no flag is of type {kind}")


def _without_none(kind: inspect.Type) -> inspect.Type:
    """The type of a value that is given, of what may be None and carries metadata."""
    if isinstance(kind, inspect.Metadata):
        return _without_none(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _without_none(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
    return kind


def _help(field: inspect.Field) -> str:
    assert isinstance(field.type, inspect.Metadata), f"{field.name} is described in the config"
    description = (field.type.extra_json_schema or {})["description"]
    default = field.default
    if default is msgspec.NODEFAULT or default in (None, "", False):
        return description.replace("%", "%%")
    return f"{description} (default: {default})".replace("%", "%%")
