"""Grammars in the form that llguidance takes: rules in Lark's notation, and grammars by name that these refer to."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from lightllm.base import grammar as parts
from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError

# Set whatever a schema's own x-guidance says. White space is what people write: some models like nothing better.
_JSON_OPTIONS: Any = {
    "lenient": False,
    "coerce_one_of": False,
    "whitespace_pattern": r" |\r?\n[ \t]{0,20}",
    "item_separator": ",",
    "key_separator": ":",
}
_LENIENT_OPTIONS: Any = {**_JSON_OPTIONS, "lenient": True, "coerce_one_of": True}
_TEXT = r"/(.|\n)*/"


def source_of(grammar: Grammar, special_tokens: Mapping[str, int]) -> str:
    """llguidance's own form of a grammar. Raises UnenforceableError."""
    return _Translation(special_tokens).finished(grammar)


class _Translation:
    """Rules and grammars collected on the way through one grammar."""

    def __init__(self, special_tokens: Mapping[str, int]):
        names = sorted(map(re.escape, special_tokens), key=len, reverse=True)
        self._special_tokens, self._special = special_tokens, re.compile("(" + "|".join(names or ["(?!)"]) + ")")
        self._rules: list[str] = []
        self._grammars: list[dict[str, Any]] = []

    def finished(self, grammar: Grammar) -> str:
        rules = f"start: {self._expression(grammar)}"
        main = {"name": "answer", "lark_grammar": "\n".join([rules, *self._rules])}
        return json.dumps({"grammars": [main, *self._grammars]}, ensure_ascii=False)

    def _expression(self, grammar: Grammar) -> str:
        """What stands for this grammar on the right of a rule."""
        return _EXPRESSIONS[type(grammar)](self, grammar)

    def _rule(self, expression: str) -> str:
        """A rule of its own. Returns its name."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}: {expression}")
        return name

    def _lazy(self, end: str) -> str:
        """Any text up to the first `end` and with it, whether it is written as a special token or letter by letter."""
        if not end or (self._special.search(end) and not self._special.fullmatch(end)):
            raise UnenforceableError(f"free text ends with {end!r}; it must be one special token, or text without any")
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}[lazy]: {_TEXT} {json.dumps(end, ensure_ascii=False)}")
        if end not in self._special_tokens:
            return name
        return self._rule(f"{name} | {self._terminal(_TEXT)} {self.literal(end)}")

    def _terminal(self, expression: str) -> str:
        name = f"T{len(self._rules)}"
        self._rules.append(f"{name}: {expression}")
        return name

    def _named(self, source: str) -> str:
        """A grammar by itself. Returns a reference to it."""
        (inner,) = json.loads(source)["grammars"]
        self._grammars.append({**inner, "name": f"g{len(self._grammars)}"})
        return f"@g{len(self._grammars) - 1}"

    def literal(self, text: str) -> str:
        pieces = [piece for piece in self._special.split(text) if piece]
        return " ".join(
            f"<[{self._special_tokens[piece]}]>"
            if piece in self._special_tokens
            else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
        )

    # Each kind of grammar.

    def _const_string(self, part: parts.ConstString) -> str:
        return self.literal(part.value) or '""'

    def _json_schema(self, part: parts.JsonSchema) -> str:
        schema = part.json_schema
        if schema is False:
            raise UnenforceableError("the JSON schema is false: nothing satisfies it")
        schema = {} if schema is True else schema
        options = _JSON_OPTIONS if part.strict else _LENIENT_OPTIONS
        return self._named(LLMatcher.grammar_from_json_schema(schema, overrides=options))

    def _regex(self, part: parts.Regex) -> str:
        return self._named(LLMatcher.grammar_from_regex(part.pattern))

    def _context_free(self, part: parts.ContextFree) -> str:
        try:
            rules = any_to_lark(part.grammar)
        except Exception as error:  # the library raises nothing narrower
            raise UnenforceableError(f"the grammar is neither Lark nor GBNF: {error}") from None
        self._grammars.append({"name": f"g{len(self._grammars)}", "lark_grammar": rules})
        return f"@g{len(self._grammars) - 1}"

    def _any_text(self, part: parts.AnyText) -> str:
        return self._terminal(_TEXT)

    def _sequence(self, part: parts.Sequence) -> str:
        if any(isinstance(element, parts.AnyText) for element in part.elements[:-1]):
            raise UnenforceableError("any_text is followed by other elements; put it last, or into a tag")
        return " ".join(self._group(element) for element in part.elements) or '""'

    def _either(self, part: parts.Either) -> str:
        if not part.elements:
            raise UnenforceableError("`or` has no elements: nothing satisfies it")
        return " | ".join(self._group(element) for element in part.elements)

    def _repeated(self, part: parts.Optional | parts.Star | parts.Plus) -> str:
        suffix = {parts.Optional: "?", parts.Star: "*", parts.Plus: "+"}[type(part)]
        return self._group(part.content) + suffix

    def _group(self, grammar: Grammar) -> str:
        return f"({self._expression(grammar)})"

    def _tag(self, part: parts.Tag, *, without: str = "") -> str:
        """`without`: how it begins, where that was read already."""
        begin = self.literal(part.begin.removeprefix(without))
        if isinstance(part.content, parts.AnyText):
            return self._rule(f"{begin} {self._lazy(part.end)}")
        return self._rule(f"{begin} {self._group(part.content)} {self.literal(part.end)}")

    def _tags(self, tags: Sequence[parts.Tag]) -> str:
        if not tags:
            raise UnenforceableError("there are triggers or separators, but no tags")
        return self._rule(" | ".join(self._tag(tag) for tag in tags))

    def _triggered_tags(self, part: parts.TriggeredTags) -> str:
        calls = []
        for trigger in part.triggers:
            begun = [self._tag(tag, without=trigger) for tag in part.tags if tag.begin.startswith(trigger)]
            if not begun or not trigger:
                raise UnenforceableError(f"no tag begins with the trigger {trigger!r}")
            calls.append(f"{self._lazy(trigger)} ({' | '.join(begun)})")
        if strays := [tag.begin for tag in part.tags if not tag.begin.startswith(tuple(part.triggers))]:
            raise UnenforceableError(f"the tag {strays[0]!r} begins with none of the triggers")
        call, text = self._rule(" | ".join(calls)), self._terminal(_TEXT)
        if part.stop_after_first:
            return call if part.at_least_one else f"{call} | {text}"
        return f"{call}{'+' if part.at_least_one else '*'} {text}"

    def _tags_with_separator(self, part: parts.TagsWithSeparator) -> str:
        one = self._tags(part.tags)
        every = one if part.stop_after_first else f"{one} ({self.literal(part.separator)} {one})*"
        return every if part.at_least_one else f"({every})?"


_EXPRESSIONS: dict[type, Callable[[_Translation, Any], str]] = {
    parts.ConstString: _Translation._const_string,
    parts.JsonSchema: _Translation._json_schema,
    parts.Regex: _Translation._regex,
    parts.ContextFree: _Translation._context_free,
    parts.AnyText: _Translation._any_text,
    parts.Sequence: _Translation._sequence,
    parts.Either: _Translation._either,
    parts.Optional: _Translation._repeated,
    parts.Star: _Translation._repeated,
    parts.Plus: _Translation._repeated,
    parts.Tag: _Translation._tag,
    parts.TriggeredTags: _Translation._triggered_tags,
    parts.TagsWithSeparator: _Translation._tags_with_separator,
}
