"""Grammars as the structural tags that xgrammar takes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightllm.base import grammar as parts
from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.xgrammar_patterns import whole
from lightllm.serving.grammar.xgrammar_schemas import written_anew

Format = dict[str, Any]

# How special tokens are spelled for xgrammar: no UTF-8, so no text has it, and free text leaves its first byte out.
SPECIAL = b"\x01\xff"
_NEVER = "\x01"
_MOST_WHITE = 20  # characters between two tokens of JSON: a line break and an indentation
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*')
# xgrammar's own functions, and a look-ahead that it does not enforce.
_EXTENSION = re.compile(r"\b(?:Token|ExcludeToken|TagDispatch|TokenTagDispatch|Regex|Substring)\s*\(|\(\s*=")


def tag_of(grammar: Grammar, special_tokens: Mapping[str, int]) -> Format:
    """Raises UnenforceableError."""
    return {"type": "structural_tag", "format": _Translation(special_tokens).format(grammar)}


class _Translation:
    def __init__(self, special_tokens: Mapping[str, int]):
        names = sorted(map(re.escape, special_tokens), key=len, reverse=True)
        self._special_tokens, self._special = special_tokens, re.compile("(" + "|".join(names or ["(?!)"]) + ")")

    def format(self, grammar: Grammar) -> Format:
        return _FORMATS[type(grammar)](self, grammar)

    def literal(self, text: str) -> Format:
        pieces = [piece for piece in self._special.split(text) if piece]
        return _in_order(
            [
                {"type": "token", "token": self._special_tokens[piece]}
                if piece in self._special_tokens
                else {"type": "const_string", "value": piece}
                for piece in pieces
            ]
        )

    def _text_up_to(self, ends: Sequence[str]) -> Format:
        """Any text without one of these."""
        return {"type": "any_text", "excludes": [_NEVER, *ends]}

    def _end(self, end: str) -> Format:
        """Of free text: a special token may also be written letter by letter."""
        if not end or (self._special.search(end) and not self._special.fullmatch(end)):
            raise UnenforceableError(f"free text ends with {end!r}; it must be one special token, or text without any")
        letters = {"type": "const_string", "value": end}
        return _one_of([self.literal(end), letters]) if end in self._special_tokens else letters

    # Each kind of grammar.

    def _const_string(self, part: parts.ConstString) -> Format:
        return self.literal(part.value)

    def _json_schema(self, part: parts.JsonSchema) -> Format:
        schema = written_anew(part.json_schema, is_strict=part.strict)
        return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _MOST_WHITE}

    def _regex(self, part: parts.Regex) -> Format:
        return {"type": "regex", "pattern": whole(part.pattern)}

    def _context_free(self, part: parts.ContextFree) -> Format:
        rules = _STRING_OR_COMMENT.sub('""', part.grammar)
        if "::=" not in rules:
            raise UnenforceableError(
                "the grammar is not in GBNF (root ::= ...), the only notation that is known to xgrammar; Lark's needs "
                "--output_constraint_mode=llguidance"
            )
        if (extension := _EXTENSION.search(rules)) is not None:
            raise UnenforceableError(f"the grammar has {extension[0]!r}, which is not GBNF")
        return {"type": "grammar", "grammar": part.grammar}

    def _any_text(self, part: parts.AnyText) -> Format:
        return self._text_up_to([])

    def _sequence(self, part: parts.Sequence) -> Format:
        if any(isinstance(element, parts.AnyText) for element in part.elements[:-1]):
            raise UnenforceableError("any_text is followed by other elements; put it last, or into a tag")
        return _in_order([self.format(element) for element in part.elements])

    def _either(self, part: parts.Either) -> Format:
        if not part.elements:
            raise UnenforceableError("`or` has no elements: nothing satisfies it")
        return _one_of([self.format(element) for element in part.elements])

    def _repeated(self, part: parts.Optional | parts.Star | parts.Plus) -> Format:
        kind = {parts.Optional: "optional", parts.Star: "star", parts.Plus: "plus"}[type(part)]
        return {"type": kind, "content": self.format(part.content)}

    def _tag(self, part: parts.Tag, *, without: str = "") -> Format:
        """`without`: how it begins, where that was read already."""
        begin = self.literal(part.begin.removeprefix(without))
        if isinstance(part.content, parts.AnyText):
            return _in_order([begin, self._text_up_to([part.end]), self._end(part.end)])
        return _in_order([begin, self.format(part.content), self.literal(part.end)])

    def _tags(self, tags: Sequence[parts.Tag]) -> Format:
        if not tags:
            raise UnenforceableError("there are triggers or separators, but no tags")
        return _one_of([self._tag(tag) for tag in tags])

    def _triggered_tags(self, part: parts.TriggeredTags) -> Format:
        text, calls = self._text_up_to(part.triggers), []
        for trigger in part.triggers:
            begun = [self._tag(tag, without=trigger) for tag in part.tags if tag.begin.startswith(trigger)]
            if not begun or not trigger:
                raise UnenforceableError(f"no tag begins with the trigger {trigger!r}")
            calls.append(_in_order([self._end(trigger), _one_of(begun)]))
        if strays := [tag.begin for tag in part.tags if not tag.begin.startswith(tuple(part.triggers))]:
            raise UnenforceableError(f"the tag {strays[0]!r} begins with none of the triggers")
        call = _in_order([text, _one_of(calls)])
        if part.stop_after_first:
            return call if part.at_least_one else _one_of([call, text])
        return _in_order([{"type": "plus" if part.at_least_one else "star", "content": call}, text])

    def _tags_with_separator(self, part: parts.TagsWithSeparator) -> Format:
        one = self._tags(part.tags)
        more = {"type": "star", "content": _in_order([self.literal(part.separator), one])}
        every = one if part.stop_after_first else _in_order([one, more])
        return every if part.at_least_one else {"type": "optional", "content": every}


def _in_order(formats: list[Format]) -> Format:
    if not formats:
        return {"type": "const_string", "value": ""}
    return formats[0] if len(formats) == 1 else {"type": "sequence", "elements": formats}


def _one_of(formats: list[Format]) -> Format:
    return formats[0] if len(formats) == 1 else {"type": "or", "elements": formats}


_FORMATS: dict[type, Callable[[_Translation, Any], Format]] = {
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
