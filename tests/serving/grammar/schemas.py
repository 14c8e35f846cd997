"""JSON schemas made from seeds: nesting, enums, ranges, patterns, unions, recursion. All their answers are short."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_NAMES = ("name", "age", "city", "items", "total", "unit", "when", "left", "right", "note", "größe", "a b", 'q"t')
_PATTERNS = (
    "^[A-Z]{2,3}-[0-9]{4}$", "^(red|green|blue)$", "^\\d{3}-\\d{2}$", "^[a-f0-9]{8}$", "^v[0-9]\\.[0-9]{1,2}$",
    "^[^aeiou]{1,4}$", "^(yes|no|maybe)( please)?$", "^\\+?[0-9]{6,10}$", "^[A-Za-z_][A-Za-z0-9_]{0,7}$",
)  # fmt: skip
_FORMATS = ("date", "uuid", "ipv4")


def make(seed: int) -> Schema:
    """The schema of this seed."""
    random_ = random.Random(seed)
    made = _Maker(random_)
    schema = made.any(depth=0) if random_.random() < 0.15 else made.object(depth=0)
    return {**schema, **({"$defs": made.defs} if made.defs else {})}


class _Maker:
    def __init__(self, random_: random.Random):
        self._random = random_
        self.defs: dict[str, Schema] = {}

    def any(self, depth: int) -> Schema:
        flat: list[Callable[[], Schema]] = [
            self.string, self.pattern, self.formatted, self.enum, self.const, self.integer, self.number, self.boolean,
            self.nullable,
        ]  # fmt: skip
        nested = [self.object, self.array, self.tuple, self.any_of, self.one_of, self.all_of, self.tree, self.map]
        if depth < 3 and self._random.random() < 0.45:
            return self._random.choice(nested)(depth)
        return self._random.choice(flat)()

    def string(self) -> Schema:
        shortest = self._random.randrange(4)
        return {"type": "string", "minLength": shortest, "maxLength": shortest + self._random.randrange(1, 10)}

    def pattern(self) -> Schema:
        return {"type": "string", "pattern": self._random.choice(_PATTERNS)}

    def formatted(self) -> Schema:
        return {"type": "string", "format": self._random.choice(_FORMATS)}

    def enum(self) -> Schema:
        values = ["north", "south", 3, 4.5, None, True, "ümlaut", 'say "hi"', [1, "x"], {"k": 1}]
        return {"enum": self._random.sample(values, self._random.randrange(1, 5))}

    def const(self) -> Schema:
        return {"const": self._random.choice(["fixed", 7, -2.5, False, None, {"a": [1, 2]}])}

    def integer(self) -> Schema:
        low = self._random.randrange(-1000, 1000)
        high = low + self._random.choice([0, 3, 100, 12345])
        bounds: list[Schema] = [
            {"minimum": low, "maximum": high},
            {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1},
            {"minimum": 0, "maximum": 120, "multipleOf": self._random.choice([2, 5, 7])},
        ]
        return {"type": "integer", **self._random.choice(bounds)}

    def number(self) -> Schema:
        low = self._random.choice([-10.5, 0, 0.25, 3])
        bounds: list[Schema] = [
            {"minimum": low, "maximum": low + self._random.choice([0.5, 1, 99])},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + 2},
        ]
        return {"type": "number", **self._random.choice(bounds)}

    def boolean(self) -> Schema:
        return {"type": "boolean"}

    def nullable(self) -> Schema:
        return {"type": ["integer", "null"], "minimum": 1, "maximum": 9}

    def object(self, depth: int) -> Schema:
        names = self._random.sample(_NAMES, self._random.randrange(1, 5))
        properties = {name: self.any(depth + 1) for name in names}
        required = [name for name in names if self._random.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def map(self, depth: int) -> Schema:
        """Names that are not known in advance."""
        keys = {"^[a-z]{1,3}$": self.any(depth + 1)}
        return {"type": "object", "patternProperties": keys, "additionalProperties": False, "maxProperties": 2}

    def array(self, depth: int) -> Schema:
        fewest = self._random.randrange(3)
        most = fewest + self._random.randrange(3)
        return {"type": "array", "items": self.any(depth + 1), "minItems": fewest, "maxItems": most}

    def tuple(self, depth: int) -> Schema:
        each = [self.any(depth + 1) for _ in range(self._random.randrange(1, 4))]
        return {"type": "array", "prefixItems": each, "items": False, "minItems": len(each)}

    def any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.any(depth + 1) for _ in range(2)]}

    def one_of(self, depth: int) -> Schema:
        """A tagged union."""
        kinds = [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": self.any(depth + 1)},
                "required": ["kind", "value"],
                "additionalProperties": False,
            }
            for kind in ("circle", "square")
        ]
        return {"oneOf": kinds}

    def all_of(self, depth: int) -> Schema:
        known = self._random.sample(_NAMES, 2)
        properties = {name: self.any(depth + 1) for name in known}
        whole = {"type": "object", "properties": properties, "additionalProperties": False}
        return {"allOf": [whole, {"required": known[:1]}]}

    def tree(self, depth: int) -> Schema:
        """Recursion: nodes with at most one child. With two, trees that are drawn at random may never end."""
        name = f"node{len(self.defs)}"
        self.defs[name] = {}
        children = {"type": "array", "items": {"$ref": f"#/$defs/{name}"}, "maxItems": 1}
        self.defs[name] = {
            "type": "object",
            "properties": {"label": self.enum(), "children": children},
            "required": ["label"],
            "additionalProperties": False,
        }
        return {"$ref": f"#/$defs/{name}"}
