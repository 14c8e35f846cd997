"""JSON schemas in the form that xgrammar enforces.

It ignores what it does not know, and much of what it knows where that stands beside something else. So every schema is
written anew, from what it is known to enforce alone; all else is refused by its keyword, or left out where a schema is
not strict. Sources: experiments with xgrammar 0.2.8, which tests/serving/grammar/test_xgrammar_schemas.py repeats.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.xgrammar_patterns import CHARACTER, in_json

Schema = dict[str, Any]

_ANNOTATIONS = frozenset({
    "title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "discriminator",
    "$schema", "$id", "$comment", "$defs", "definitions",
})  # fmt: skip
_KEYWORDS = {
    "null": (),
    "boolean": (),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "object": (
        "properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties",
    ),
}  # fmt: skip
_OF_TYPES = frozenset(keyword for keywords in _KEYWORDS.values() for keyword in keywords)
_ANY_TYPE = [kind for kind in _KEYWORDS if kind != "integer"]  # numbers are integers, too
_FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = {"pattern": rf"^(?:{_BYTE}\.){{3}}{_BYTE}$"}  # xgrammar's own has leading zeros
_LARGEST = 1 << 53  # of whole numbers that xgrammar reads without rounding
_MOST_REFERENCES = 100  # one after the other


def written_anew(schema: Schema | bool, *, is_strict: bool = True) -> Schema:
    """What xgrammar is given. Raises UnenforceableError that names the keyword that it does not enforce."""
    rewriting = _Rewriting(schema, is_strict=is_strict)
    written = rewriting.schema(schema)
    return {**written, "$defs": rewriting.definitions} if rewriting.definitions else written


class _Rewriting:
    """On the way through one schema. `definitions`: what is referred to, by names of our own."""

    def __init__(self, root: Schema | bool, *, is_strict: bool):
        self._root, self._is_strict = root, is_strict
        self._names: dict[str, str] = {}  # of definitions, by the pointers to them
        self.definitions: dict[str, Schema] = {}

    def schema(self, schema: Any) -> Schema:
        if schema is True:
            return {}
        if schema is False:
            raise UnenforceableError("a JSON schema is false: nothing satisfies it")
        if not isinstance(schema, dict):
            raise UnenforceableError(f"{json.dumps(schema)[:100]} is no JSON schema: it must be an object or a boolean")
        said = {keyword: value for keyword, value in schema.items() if keyword not in _ANNOTATIONS}
        for leading, write in _LEADING.items():
            if leading in said:
                value = said.pop(leading)
                return write(self, value, said)
        return self._typed(said)

    def refuse(self, keyword: str, why: str = "") -> None:
        """Raises UnenforceableError, unless the schema is one of which it may be left out."""
        if self._is_strict:
            raise UnenforceableError(
                f"xgrammar does not enforce {keyword!r} of a JSON schema{why and ' ' + why}; leave it out, or start "
                "the server with --output_constraint_mode=llguidance"
            )

    def _refuse_beside(self, leading: str, others: Mapping[str, Any]) -> None:
        for keyword in others:
            self.refuse(keyword, f"beside {leading!r}")

    # What stands alone, for any type.

    def _reference(self, pointer: Any, others: Schema) -> Schema:
        self._refuse_beside("$ref", others)
        if not isinstance(pointer, str):
            raise UnenforceableError("'$ref' must be a text")
        target = self._followed(pointer)
        if (name := self._names.get(pointer)) is None:
            name = self._names[pointer] = f"d{len(self._names)}"
            self.definitions[name] = self.schema(target)
        return {"$ref": f"#/$defs/{name}"}

    def _followed(self, pointer: str) -> Any:
        """What it points to, which is no reference itself."""
        target = self._pointed(pointer)
        for _ in range(_MOST_REFERENCES):
            if not isinstance(target, dict) or "$ref" not in target:
                return target
            target = self._pointed(str(target["$ref"]))
        raise UnenforceableError(f"'$ref': {pointer!r} leads to references only")

    def _pointed(self, pointer: str) -> Any:
        target: Any = self._root
        if pointer != "#" and not pointer.startswith("#/"):
            raise UnenforceableError(f"'$ref': {pointer[:100]!r} is not within the schema, as #/$defs/NAME would be")
        for step in pointer.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise UnenforceableError(f"'$ref': there is no {pointer[:100]!r} in the schema")
        return target

    def _const(self, value: Any, others: Schema) -> Schema:
        return self._enum([value], others)

    def _enum(self, values: Any, others: Schema) -> Schema:
        if not isinstance(values, list):
            raise UnenforceableError("'enum' must be a list")
        if "const" in others:
            constant = others.pop("const")
            values = [value for value in values if _same(value, constant)]
        if "type" in others:
            kinds = _types(others.pop("type"))
            values = [value for value in values if _kinds_of(value) & set(kinds)]
        self._refuse_beside("enum", others)
        if not values:
            raise UnenforceableError("nothing satisfies an 'enum' or 'const' of the JSON schema")
        if any(_is_beyond(value) for value in values):
            raise UnenforceableError("xgrammar rounds numbers of an 'enum' or 'const' that have more than 53 bits")
        return {"enum": values}

    def _any_of(self, branches: Any, others: Schema) -> Schema:
        self._refuse_beside("anyOf", others)
        return {"anyOf": [self.schema(branch) for branch in _branches("anyOf", branches)]}

    def _one_of(self, branches: Any, others: Schema) -> Schema:
        self._refuse_beside("oneOf", others)
        known = _branches("oneOf", branches)
        if not all(self._exclude(one, other, 0) for i, one in enumerate(known) for other in known[:i]):
            self.refuse("oneOf", "of which several may hold (use anyOf, or a property with a 'const' that tells them)")
        return {"anyOf": [self.schema(branch) for branch in known]}

    def _all_of(self, branches: Any, others: Schema) -> Schema:
        self._refuse_beside("allOf", others)
        known = _branches("allOf", branches)
        if len(known) > 1:
            self.refuse("allOf", "of several schemas")
        return self.schema(known[0])

    def _exclude(self, one: Any, other: Any, depth: int) -> bool:
        """Whether nothing satisfies both, as far as it can be seen."""
        one, other = (
            self._followed(each["$ref"]) if isinstance(each, dict) and isinstance(each.get("$ref"), str) else each
            for each in (one, other)
        )
        if not isinstance(one, dict) or not isinstance(other, dict) or depth > 1:
            return False
        first, second = _values(one), _values(other)
        if first is not None and second is not None:
            return not any(_same(a, b) for a in first for b in second)
        if not _kinds(one) & _kinds(other):
            return True
        shared = set(one.get("required") or ()) & set(other.get("required") or ())
        ours, theirs = one.get("properties") or {}, other.get("properties") or {}
        return _kinds(one) & _kinds(other) == {"object"} and any(
            self._exclude(ours.get(name), theirs.get(name), depth + 1) for name in shared
        )

    # What depends on the type.

    def _typed(self, said: Schema) -> Schema:
        kinds = _types(said.pop("type")) if "type" in said else []
        for keyword in list(said):
            if keyword not in _OF_TYPES:
                self.refuse(keyword)
                del said[keyword]
        if not kinds and not said:
            return {}
        written = [self._one_type(kind, said) for kind in kinds or _ANY_TYPE]
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _one_type(self, kind: str, said: Schema) -> Schema:
        own = {keyword: said[keyword] for keyword in _KEYWORDS[kind] if keyword in said}
        return {"type": kind, **_OF_TYPE[kind](self, own)}

    def _nothing(self, said: Schema) -> Schema:
        return {}

    def _integer(self, said: Schema) -> Schema:
        numbers = {keyword: _number(keyword, value) for keyword, value in said.items()}
        step = numbers.pop("multipleOf", 1)
        if step != int(step) or step < 1:
            self.refuse("multipleOf", "with a number that is not whole")
            step = 1
        lows, highs = [], []
        for keyword, value in numbers.items():
            match keyword:
                case "minimum":
                    lows.append(math.ceil(value))
                case "exclusiveMinimum":
                    lows.append(math.floor(value) + 1)
                case "maximum":
                    highs.append(math.floor(value))
                case _:
                    highs.append(math.ceil(value) - 1)
        bounds = {**({"minimum": max(lows)} if lows else {}), **({"maximum": min(highs)} if highs else {})}
        if lows and highs and -(-max(lows) // int(step)) * int(step) > min(highs):
            raise UnenforceableError(f"no integer is between 'minimum' {max(lows)} and 'maximum' {min(highs)}")
        if any(abs(bound) > _LARGEST for bound in bounds.values()):
            self.refuse("minimum" if abs(bounds.get("minimum", 0)) > _LARGEST else "maximum", "of more than 53 bits")
            bounds = {}
        return {**bounds, **({"multipleOf": int(step)} if step != 1 else {})}

    def _float(self, said: Schema) -> Schema:
        numbers = {keyword: _number(keyword, value) for keyword, value in said.items()}
        if "multipleOf" in numbers:
            self.refuse("multipleOf", "where the type is not integer")
            del numbers["multipleOf"]
        for inclusive, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
            if inclusive in numbers and exclusive in numbers:
                weaker = inclusive if numbers[exclusive] * sign >= numbers[inclusive] * sign else exclusive
                del numbers[weaker]
        low = numbers.get("minimum", numbers.get("exclusiveMinimum", -math.inf))
        high = numbers.get("maximum", numbers.get("exclusiveMaximum", math.inf))
        if low > high or (low == high and not {"minimum", "maximum"} <= numbers.keys()):
            raise UnenforceableError(f"no number is between 'minimum' {low} and 'maximum' {high} of the JSON schema")
        return numbers

    def _string(self, said: Schema) -> Schema:
        shortest, longest = _count("minLength", said.pop("minLength", 0)), said.pop("maxLength", None)
        if longest is not None and _count("maxLength", longest) < shortest:
            raise UnenforceableError(f"no text has 'minLength' {shortest} and 'maxLength' {longest}")
        if "pattern" in said and "format" in said:
            self.refuse("format", "beside 'pattern'")
            del said["format"]
        if "pattern" not in said and "format" not in said and (shortest or longest is not None):
            return {"pattern": f"^{CHARACTER}{{{shortest},{'' if longest is None else longest}}}$"}
        if said and (shortest or longest is not None):
            self.refuse("minLength" if shortest else "maxLength", f"beside {next(iter(said))!r}")
        if "format" in said:
            if said["format"] in _FORMATS:
                return _IPV4 if said["format"] == "ipv4" else said
            self.refuse("format", f"with {json.dumps(said['format'])[:100]}; it knows {', '.join(sorted(_FORMATS))}")
            return {}
        return self._pattern(said["pattern"]) if "pattern" in said else {}

    def _pattern(self, pattern: Any) -> Schema:
        if not isinstance(pattern, str):
            raise UnenforceableError("'pattern' must be a text")
        try:
            return {"pattern": in_json(pattern)}
        except UnenforceableError:
            if self._is_strict:
                raise
            return {}

    def _array(self, said: Schema) -> Schema:
        if said.pop("uniqueItems", False):
            self.refuse("uniqueItems")
        first, rest = said.get("prefixItems", []), said.get("items", True)
        fewest, most = _count("minItems", said.get("minItems", 0)), said.get("maxItems")
        if not isinstance(first, list) or isinstance(rest, list):
            raise UnenforceableError("'prefixItems' must be a list of schemas, and 'items' one schema")
        if most is not None and _count("maxItems", most) <= len(first):
            first, rest = first[:most], False
        if fewest > (len(first) if rest is False else fewest if most is None else most):
            raise UnenforceableError("no array has as many items as the JSON schema asks for")
        written: Schema = {"items": rest is not False and self.schema(rest)}
        if first:
            written["prefixItems"] = [self.schema(item) for item in first]
        if fewest:
            written["minItems"] = fewest
        if most is not None and rest is not False:
            written["maxItems"] = most
        return written

    def _object(self, said: Schema) -> Schema:
        known, required = said.get("properties", {}), said.get("required", [])
        if not isinstance(known, dict) or not isinstance(required, list):
            raise UnenforceableError("'properties' must be an object of schemas, and 'required' a list of names")
        counts = {name: _count(name, said[name]) for name in ("minProperties", "maxProperties") if name in said}
        if "patternProperties" in said:
            if known or required:
                self.refuse("patternProperties", "beside 'properties' or 'required'")
            else:
                return {**self._names_by_pattern(said["patternProperties"]), **self._countable(counts)}
        others = said.get("additionalProperties", True)
        names = [*known, *(str(name) for name in dict.fromkeys(required) if name not in known)]
        if not names:
            written = {"additionalProperties": others is not False and self.schema(others)}
            return {**written, **(self._countable(counts) if others is not False else counts)}
        if others not in (True, False, {}) and known:
            # A known name can be written with escapes, and then counts as another for xgrammar.
            self.refuse("additionalProperties", "with a schema beside 'properties'")
        return {
            "properties": self._properties({name: known.get(name, others) for name in names}, required),
            "required": [name for name in names if name in required],
            "additionalProperties": False,
            **counts,
        }

    def _properties(self, known: Mapping[str, Any], required: Sequence[str]) -> Schema:
        if impossible := [name for name in required if known[name] is False]:
            raise UnenforceableError(f"the property {impossible[0][:100]!r} is required, and nothing satisfies it")
        return {name: self.schema(schema) for name, schema in known.items() if schema is not False}

    def _names_by_pattern(self, schemas: Any) -> Schema:
        """Names that match nothing are not written."""
        if not isinstance(schemas, dict):
            raise UnenforceableError("'patternProperties' must be an object of schemas")
        if len(schemas) > 1:
            self.refuse("patternProperties", "with several patterns, of which one name may match two")
        each = {in_json(pattern): self.schema(schema) for pattern, schema in list(schemas.items())[:1]}
        return {"patternProperties": each, "additionalProperties": False}

    def _countable(self, counts: Schema) -> Schema:
        """Where names are free one may come twice, so that there are fewer than were counted."""
        if counts.get("minProperties", 0) > 1:
            self.refuse("minProperties", "of more than 1 where names are not in 'properties'")
            del counts["minProperties"]
        return counts


_LEADING: dict[str, Callable[[_Rewriting, Any, Schema], Schema]] = {
    "$ref": _Rewriting._reference,
    "enum": _Rewriting._enum,
    "const": _Rewriting._const,
    "anyOf": _Rewriting._any_of,
    "oneOf": _Rewriting._one_of,
    "allOf": _Rewriting._all_of,
}
_OF_TYPE: dict[str, Callable[[_Rewriting, Schema], Schema]] = {
    "null": _Rewriting._nothing,
    "boolean": _Rewriting._nothing,
    "integer": _Rewriting._integer,
    "number": _Rewriting._float,
    "string": _Rewriting._string,
    "array": _Rewriting._array,
    "object": _Rewriting._object,
}


def _types(value: Any) -> list[str]:
    kinds = list(dict.fromkeys(value)) if isinstance(value, list) else [value]
    if unknown := [kind for kind in kinds if kind not in _KEYWORDS]:
        raise UnenforceableError(f"Invalid type {json.dumps(unknown[0])[:100]}; it may be {', '.join(_KEYWORDS)}")
    if not kinds:
        raise UnenforceableError("'type' is an empty list: nothing satisfies it")
    return [kind for kind in kinds if kind != "integer" or "number" not in kinds]


def _branches(keyword: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise UnenforceableError(f"{keyword!r} must be a list of schemas, at least one")
    return value


def _number(keyword: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UnenforceableError(f"{keyword!r} must be a number")
    return value


def _count(keyword: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise UnenforceableError(f"{keyword!r} must be a whole number, not less than 0")
    return int(value)


def _values(schema: Schema) -> list[Any] | None:
    """All that may satisfy it, where they are listed."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _kinds(schema: Schema) -> set[str]:
    """Types of what may satisfy it; all where that is not said outright."""
    values, kind = _values(schema), schema.get("type")
    if values is not None:
        return set().union(*map(_kinds_of, values))
    if not isinstance(kind, str | list):
        return set(_KEYWORDS)
    return {each for one in _types(kind) for each in ((one, "integer") if one == "number" else (one,))}


def _kinds_of(value: Any) -> set[str]:
    match value:
        case None:
            return {"null"}
        case bool():
            return {"boolean"}
        case int():
            return {"integer", "number"}
        case float():
            return {"integer", "number"} if value.is_integer() else {"number"}
        case str():
            return {"string"}
        case list():
            return {"array"}
    return {"object"}


def _same(one: Any, other: Any) -> bool:
    """As values of JSON: 1 is 1.0, and not true."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _is_beyond(value: Any) -> bool:
    """Whether there is a whole number in it that xgrammar would round."""
    if isinstance(value, list | dict):
        return any(map(_is_beyond, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) > _LARGEST
