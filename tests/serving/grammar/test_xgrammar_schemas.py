"""What xgrammar is given of a JSON schema: it ignores much, and what it would ignore is refused by its keyword."""

import json
from typing import Any

import jsonschema
import pytest

from lightllm.base.grammar import JsonSchema
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.xgrammar_schemas import written_anew
from tests.serving.grammar.engines import follows, needs_xgrammar

INTEGER, NULL = {"type": "integer"}, {"type": "null"}


def of_object(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def of_array(**keywords: Any) -> dict[str, Any]:
    return {"type": "array", **keywords}


def tagged(kind: str, **properties: Any) -> dict[str, Any]:
    return of_object(properties={"kind": {"const": kind}, **properties}, required=["kind"])


# Schemas, and values of which some satisfy them: jsonschema says which.
ENFORCED = {
    "minimum": ({"type": "integer", "minimum": -2, "exclusiveMaximum": 12}, [-3, -2, 0, 11, 12, 100]),
    "fractions": ({"type": "integer", "minimum": 2.5, "maximum": 4.5}, [2, 3, 4, 5]),
    "number": ({"type": "number", "exclusiveMinimum": 0.5, "maximum": 2}, [0.5, 0.51, 1, 2, 2.1, -1]),
    "multipleOf": ({"type": "integer", "multipleOf": 3, "minimum": 2, "maximum": 9}, [0, 2, 3, 9, 12]),
    "no type": ({"minimum": 5, "maxLength": 1}, [4, 5, "a", "ab", None, [1]]),
    "types": ({"type": ["integer", "null"], "minimum": 1}, [0, 1, None, "a"]),
    "length": ({"type": "string", "minLength": 2, "maxLength": 3}, ["a", "ab", "é世é", "abcd"]),
    "shortest": ({"type": "string", "minLength": 2}, ["a", "ab", "abcdef"]),
    "pattern": ({"type": "string", "pattern": "^a|b$"}, ["a", "axx", "xb", "xax"]),
    "format": ({"type": "string", "format": "date"}, ["2026-01-31", "2026-13-01", "today"]),
    "enum": ({"enum": [1, "a", None, ["x"]], "type": ["string", "null"]}, [1, "a", None, ["x"], "b"]),
    "const": ({"const": {"a": [1, 2]}}, [{"a": [1, 2]}, {"a": [1]}]),
    "anyOf": ({"anyOf": [INTEGER, NULL]}, [1, None, "a"]),
    "oneOf": ({"oneOf": [tagged("a", x=INTEGER), tagged("b", x=NULL)]}, [{"kind": "a", "x": 1}, {"kind": "b", "x": 1}]),
    "allOf": ({"allOf": [{"type": "integer", "minimum": 3}]}, [2, 3]),
    "items": (of_array(items=INTEGER, minItems=1, maxItems=2), [[], [1], [1, 2], [1, 2, 3], ["a"]]),
    "any items": (of_array(minItems=1, maxItems=2), [[], [1], [None, {}], [1, 2, 3]]),
    "prefixItems": (
        of_array(prefixItems=[INTEGER, NULL], items=False, minItems=1),
        [[], [1], [1, None], [None], [1, None, 2]],
    ),
    "long prefixItems": (of_array(prefixItems=[INTEGER, NULL], maxItems=1), [[], [1], [1, None]]),
    "required": (of_object(properties={"a": INTEGER}, required=["b"]), [{"a": 1}, {"b": 1}, {"a": 1, "b": "x"}]),
    "no properties": (of_object(additionalProperties=False), [{}, {"a": 1}]),
    "additionalProperties": (of_object(additionalProperties=INTEGER, maxProperties=1), [{}, {"a": 1}, {"a": "x"}]),
    "false property": (of_object(properties={"a": False, "b": INTEGER}), [{}, {"a": 1}, {"b": 1}]),
    "counts": (
        of_object(properties=dict.fromkeys("abc", INTEGER), required=["b"], minProperties=2, maxProperties=2),
        [{"b": 1}, {"a": 1, "b": 1}, {"b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}],
    ),
    "patternProperties": (
        of_object(patternProperties={"^a": INTEGER}, additionalProperties=False),
        [{}, {"a": 1}, {"ab": 1}, {"ab": "x"}, {"b": 1}],
    ),
    "$ref": ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"$ref": "#/$defs/c%25"}, "c%": INTEGER}}, [1, "a"]),
    "recursion": (
        of_object(properties={"v": INTEGER, "next": {"$ref": "#"}}, required=["v"]),
        [{"v": 1}, {"v": 1, "next": {"v": 2}}, {"v": 1, "next": {"v": "x"}}, {"v": 1, "next": {}}],
    ),
}  # fmt: skip
REFUSED = {
    "minLength": {"type": "string", "pattern": "a", "minLength": 2},
    "maxLength": {"type": "string", "format": "email", "maxLength": 2},
    "format": {"type": "string", "pattern": "a", "format": "date"},
    "multipleOf": {"type": "number", "multipleOf": 0.5},
    "maximum": {"type": "integer", "maximum": 2**63},
    "'type'": {"type": "integer", "anyOf": [INTEGER, NULL]},
    "'minimum'": {"$ref": "#/$defs/a", "$defs": {"a": INTEGER}, "minimum": 3},
    "'minLength'": {"enum": ["a", "abc"], "minLength": 2},
    "oneOf": {"oneOf": [tagged("a"), of_object(properties={"kind": {"type": "string"}}, required=["kind"])]},
    "allOf": {"allOf": [INTEGER, {"minimum": 3}]},
    "additionalProperties": of_object(properties={"a": {"type": "string"}}, additionalProperties=INTEGER),
    "minProperties": of_object(minProperties=2),
    "patternProperties": of_object(patternProperties={"^a": INTEGER}, required=["ab"]),
    "several patterns": of_object(patternProperties={"^a": INTEGER, "b$": NULL}),
    "not within": {"$ref": "https://example.com/schema"},
    "references only": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "there is no": {"$ref": "#/$defs/a"},
    "unknownKeyword": {"unknownKeyword": 1},
    "dynamicRef": {"$dynamicRef": "#a"},
    "53 bits": {"const": 2**53 + 1},
    "nothing satisfies": {"type": "string", "const": 1},
    "must be a number": {"type": "integer", "minimum": True},
    "whole number": {"type": "string", "minLength": -1},
    "no JSON schema": of_object(properties={"a": 3}),
    "no array": of_array(prefixItems=[INTEGER], items=False, minItems=2),
    "no integer": {"type": "integer", "minimum": 4, "maximum": 8, "multipleOf": 9},
    "no number": {"type": "number", "minimum": 3, "exclusiveMaximum": 3},
}  # fmt: skip


@needs_xgrammar
@pytest.mark.parametrize(("schema", "values"), ENFORCED.values(), ids=ENFORCED)
def test_values_can_be_written_if_they_satisfy_the_schema(schema, values):
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    satisfying = jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid
    for value in values:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert follows(JsonSchema(schema), text, "xgrammar") == satisfying(value), text


@needs_xgrammar
@pytest.mark.parametrize("text", ['"\x01"', '"\n"', '"""', '"\\"', '"a\tb"'])
def test_texts_of_a_length_or_pattern_are_valid_json(text):
    for schema in (
        {"maxLength": 9},
        {"minLength": 1},
        {"pattern": "."},
        {"pattern": "[^a]"},
        {"pattern": r"^[\s\S]*$"},
    ):
        assert not follows(JsonSchema({"type": "string", **schema}), text, "xgrammar")


@needs_xgrammar
def test_an_address_has_no_leading_zeros():
    address = JsonSchema({"type": "string", "format": "ipv4"})
    assert follows(address, '"10.0.255.1"', "xgrammar")
    assert not follows(address, '"010.0.0.1"', "xgrammar")
    assert not follows(address, '"10.0.256.1"', "xgrammar")


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_ignored_is_refused(name):
    with pytest.raises(UnenforceableError, match=name.strip("'")):
        written_anew(REFUSED[name])


def test_what_is_not_enforced_is_left_out_of_a_schema_that_is_not_strict():
    schema = of_object(
        properties={
            "a": {"type": "string", "pattern": "(?=b)", "title": "A"},
            "b": {"type": "integer", "not": {"const": 3}, "minimum": 1},
            "c": {"oneOf": [INTEGER, {"type": "number"}]},
            "d": {"type": "string", "format": "colour"},
        },
        required=["b"],
    )
    written = written_anew(schema, is_strict=False)["properties"]
    assert written == {
        "a": {"type": "string"},
        "b": {"type": "integer", "minimum": 1},
        "c": {"anyOf": [INTEGER, {"type": "number"}]},
        "d": {"type": "string"},
    }
