"""Grammars in the form that llguidance takes: rules in Lark's notation, and grammars by name that these refer to."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from lightllm.base import grammar as parts
from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.translation import Times, Translation

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
    return _Lark(special_tokens).finished(grammar)


class _Lark(Translation[str]):
    """What stands for a part on the right of a rule; rules and grammars are collected on the way."""

    def __init__(self, special_tokens: Mapping[str, int]):
        super().__init__(special_tokens)
        self._rules: list[str] = []
        self._grammars: list[dict[str, Any]] = []

    def finished(self, grammar: Grammar) -> str:
        rules = f"start: {self.of(grammar)}"
        main = {"name": "answer", "lark_grammar": "\n".join([rules, *self._rules])}
        return json.dumps({"grammars": [main, *self._grammars]}, ensure_ascii=False)

    def token(self, token: int) -> str:
        return f"<[{token}]>"

    def letters(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    def json_schema(self, part: parts.JsonSchema) -> str:
        schema = part.json_schema
        if schema is False:
            raise UnenforceableError("the JSON schema is false: nothing satisfies it")
        schema = {} if schema is True else schema
        options = _JSON_OPTIONS if part.strict else _LENIENT_OPTIONS
        return self._named(LLMatcher.grammar_from_json_schema(schema, overrides=options))

    def regex(self, part: parts.Regex) -> str:
        return self._named(LLMatcher.grammar_from_regex(part.pattern))

    def context_free(self, part: parts.ContextFree) -> str:
        try:
            rules = any_to_lark(part.grammar)
        except Exception as error:  # the library raises nothing narrower
            raise UnenforceableError(f"the grammar is neither Lark nor GBNF: {error}") from None
        return self._grammar({"lark_grammar": rules})

    def text_without(self, ends: Collection[str]) -> str:
        # Where text and lazy text may go on alike, lazy text ends at its end, so text need not leave ends out.
        return self._rule(_TEXT, kind="T")

    def text_up_to(self, then: Mapping[str, str]) -> str:
        return self.one_of([self.in_order([self._lazy(end), after]) for end, after in then.items()])

    def in_order(self, forms: Sequence[str]) -> str:
        return f"({' '.join(forms)})" if len(forms) > 1 else "".join(forms) or '""'

    def one_of(self, forms: Sequence[str]) -> str:
        return self._rule(" | ".join(forms)) if len(forms) > 1 else forms[0]

    def repeated(self, form: str, times: Times) -> str:
        return f"({form}){times}"

    def _lazy(self, end: str) -> str:
        """Any text up to the first `end` and with it, whether it is written as a special token or letter by letter."""
        letters = self._rule(f"{_TEXT} {self.letters(end)}", kind="r", options="[lazy]")
        if end not in self._special_tokens:
            return letters
        return self._rule(f"{letters} | {self._rule(_TEXT, kind='T')} {self.literal(end)}")

    def _rule(self, expression: str, *, kind: str = "r", options: str = "") -> str:
        """A rule (r), or a terminal (T), of its own. Returns its name."""
        name = f"{kind}{len(self._rules)}"
        self._rules.append(f"{name}{options}: {expression}")
        return name

    def _named(self, source: str) -> str:
        """The only grammar of one in llguidance's own form, by itself. Returns a reference to it."""
        (inner,) = json.loads(source)["grammars"]
        return self._grammar(inner)

    def _grammar(self, grammar: dict[str, Any]) -> str:
        name = f"g{len(self._grammars)}"
        self._grammars.append({**grammar, "name": name})
        return f"@{name}"
