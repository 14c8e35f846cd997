"""What the server's OpenAPI document says: its routes, and values that it would take."""

import json
import random
from dataclasses import dataclass
from typing import Any

from jsonschema_rs import Draft202012Validator

Schema = dict[str, Any]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
# Fields whose schema says less than what they mean; all others are drawn from their schema.
SENSIBLE: dict[str, list[Any]] = {
    "prompt": ["hello", [1, 2, 3], ["a", "b"]],
    "inputs": ["hello", [1, 2, 3]],
    "input": ["hello"],
    "messages": [
        [{"role": "user", "content": "hello"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    ],
    "tools": [
        [{"type": "function", "function": FUNCTION}],
        [{"type": "function", **FUNCTION}],
        [{"name": "f", "input_schema": {"type": "object"}}],
    ],
    "tool_choice": [
        *("auto", "none", "required"),
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "name": "f"},
        {"type": "any"},
    ],
    "functions": [[FUNCTION]],
    "function_call": ["auto", {"name": "f"}],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
        {"type": "structural_tag", "structures": [{"begin": "<a>", "end": "</a>"}], "triggers": ["<a"]},
    ],
    "structured_outputs": [{"json": SCHEMA}, {"regex": "[a-c]+"}, {"choice": ["a", "b"]}, {"grammar": 'start: "a"'}],
    "guided_json": [SCHEMA, json.dumps(SCHEMA)],
    "guided_regex": ["[a-c]+", "(", "(a+)+$"],
    "guided_choice": [["a", "b"]],
    "guided_grammar": ['start: "a"', 'root ::= "a" root?', "root ::= root"],
    "regular_constraint": ["[a-c]+"],
    "grammar": [{"type": "regex", "value": "[a-c]+"}, {"type": "json", "value": SCHEMA}],
    "format": [{"type": "json_schema", "name": "a", "schema": SCHEMA}, {"type": "json_object"}],
    "chat_template_kwargs": [{"shout": True}],
    "chat": ["hello", [1, 2, 3]],
    "best_of": [1, 2],
    "num_beams": [1, 3],
    "max_tokens": [1, 3],
    "max_completion_tokens": [2],
    "max_output_tokens": [2],
    "max_new_tokens": [2],
    "n": [1, 2],
    "temperature": [0, 0.5, 1],
}
TEXTS = ["", "a", "hello there", "Größe 世界 👩‍👩‍👧‍👦", "<|end|>", "\x00", "\u202e", "a" * 300]
NUMBERS = [0, 1, -1, 0.5, 2, 7, 1000]


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    body: Schema | None  # of the request; None: takes none
    answers: dict[str, dict[str, Draft202012Validator | None]]  # by status and media type
    takes: Draft202012Validator | None  # says whether a body is as the document wants it


class Document:
    """Routes and schemas of an OpenAPI document."""

    def __init__(self, document: dict[str, Any], *, model: str):
        self._sensible = SENSIBLE | {"model": [model]}
        self._schemas: dict[str, Schema] = document["components"]["schemas"]
        self._components = {"components": {"schemas": self._schemas}}
        self.routes = [
            self._route(method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]

    def _route(self, method: str, path: str, operation: dict[str, Any]) -> Route:
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        answers = {
            status: {kind: self._validator_of(kind, about) for kind, about in answer.get("content", {}).items()}
            for status, answer in operation["responses"].items()
        }
        return Route(method, path, body, answers, self.validator(body))

    def _validator_of(self, kind: str, about: dict[str, Any]) -> Draft202012Validator | None:
        """Of an answer, or of the data of each event of a stream; None where the document says nothing of these."""
        schema = about["schema"]
        if kind == "text/event-stream":
            schema = schema.get("properties", {}).get("data", {}).get("contentSchema")
        return self.validator(schema)

    def validator(self, schema: Schema | None) -> Draft202012Validator | None:
        return None if schema is None else Draft202012Validator(self._components | schema)

    def resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rsplit("/", 1)[-1]]
        return schema

    def places(self, schema: Schema, *, within: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        """Paths to all fields of an object and of what is in it, three levels deep."""
        schema = self.resolved(schema)
        if len(within) == 3:
            return []
        found = []
        for name, inner in schema.get("properties", {}).items():
            found += [(*within, name), *self.places(inner, within=(*within, name))]
        for inner in schema.get("anyOf", []):
            found += self.places(inner, within=within)
        if "items" in schema and isinstance(schema["items"], dict):
            found += [(*within, 0), *self.places(schema["items"], within=(*within, 0))]
        return found

    def value(self, schema: Schema, draw: random.Random, *, name: str = "", deep: int = 0) -> Any:
        """One that the schema allows, and mostly one that makes sense."""
        if name in self._sensible and draw.random() < 0.9:
            return draw.choice(self._sensible[name])
        schema = self.resolved(schema)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self.value(draw.choice(schema[key]), draw, name=name, deep=deep)
        if "enum" in schema or "const" in schema:
            return draw.choice(schema.get("enum", [schema.get("const")]))
        return self._of_type(schema, draw, deep)

    def _of_type(self, schema: Schema, draw: random.Random, deep: int) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema, draw, deep)
            case "array":
                return [self.value(schema.get("items") or {}, draw, deep=deep + 1) for _ in range(draw.randrange(3))]
            case "string":
                return draw.choice(TEXTS)
            case "integer":
                return min(max(int(draw.choice(NUMBERS)), schema.get("minimum", -9)), schema.get("maximum", 9999))
            case "number":
                return draw.choice(NUMBERS)
            case "boolean":
                return draw.random() < 0.5
            case "null":
                return None
        return draw.choice([None, True, 1, "a", [], {}])

    def _object(self, schema: Schema, draw: random.Random, deep: int) -> dict[str, Any]:
        required, share = set(schema.get("required", [])), draw.choice([0.02, 0.12]) if deep < 2 else 0.0
        return {
            name: self.value(inner, draw, name=name, deep=deep + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or draw.random() < share
        }
