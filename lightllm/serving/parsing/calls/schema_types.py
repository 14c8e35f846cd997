"""Which types the JSON schema of a tool's parameters allows for each of them."""

from collections.abc import Mapping
from typing import Any

_OF_PYTHON = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_DEEPEST = 20  # levels of anyOf in one another that are looked at


def types_of(parameters: Mapping[str, Any] | None) -> dict[str, frozenset[str]]:
    """Type names by parameter; an empty set where the schema does not say, or says it in ways not known here."""
    properties = (parameters or {}).get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {name: _types(schema, _DEEPEST) for name, schema in properties.items()}


def _types(schema: Any, deepest: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or not deepest:
        return frozenset()
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset([kind])
    if isinstance(kind, list):
        return frozenset(name for name in kind if isinstance(name, str))
    for several in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(several, list):
            each = [_types(one, deepest - 1) for one in several]
            return frozenset().union(*each) if all(each) else frozenset()
    values = schema["enum"] if isinstance(schema.get("enum"), list) else []
    return frozenset(_OF_PYTHON.get(type(value), "") for value in values)
