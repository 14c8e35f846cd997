"""Grammars as the structural tags that xgrammar takes."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lightllm.base import grammar as parts
from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.translation import Times, Translation
from lightllm.serving.grammar.xgrammar_patterns import whole
from lightllm.serving.grammar.xgrammar_schemas import written_anew

Format = dict[str, Any]

# How special tokens are spelled for xgrammar: no UTF-8, so no text has it, and free text leaves its first byte out.
SPECIAL = b"\x01\xff"
_NEVER = "\x01"
_REPEATED: dict[Times, str] = {"?": "optional", "*": "star", "+": "plus"}
_MOST_WHITE = 20  # characters between two tokens of JSON: a line break and an indentation
_STRING_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#.*')
# xgrammar's own functions, and a look-ahead that it does not enforce.
_EXTENSION = re.compile(r"\b(?:Token|ExcludeToken|TagDispatch|TokenTagDispatch|Regex|Substring)\s*\(|\(\s*=")


def tag_of(grammar: Grammar, special_tokens: Mapping[str, int]) -> Format:
    """Raises UnenforceableError."""
    return {"type": "structural_tag", "format": _Tags(special_tokens).of(grammar)}


class _Tags(Translation[Format]):
    def token(self, token: int) -> Format:
        return {"type": "token", "token": token}

    def letters(self, text: str) -> Format:
        return {"type": "const_string", "value": text}

    def json_schema(self, part: parts.JsonSchema) -> Format:
        schema = written_anew(part.json_schema, is_strict=part.strict)
        return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _MOST_WHITE}

    def regex(self, part: parts.Regex) -> Format:
        return {"type": "regex", "pattern": whole(part.pattern)}

    def context_free(self, part: parts.ContextFree) -> Format:
        rules = _STRING_OR_COMMENT.sub('""', part.grammar)
        if "::=" not in rules:
            raise UnenforceableError(
                "the grammar is not in GBNF (root ::= ...), the only notation that is known to xgrammar; Lark's needs "
                "--output_constraint_mode=llguidance"
            )
        if (extension := _EXTENSION.search(rules)) is not None:
            raise UnenforceableError(f"the grammar has {extension[0]!r}, which is not GBNF")
        return {"type": "grammar", "grammar": part.grammar}

    def text_without(self, ends: Collection[str]) -> Format:
        return {"type": "any_text", "excludes": [_NEVER, *ends]}

    def text_up_to(self, then: Mapping[str, Format]) -> Format:
        ended = [self.in_order([self._end(end), after]) for end, after in then.items()]
        return self.in_order([self.text_without(then), self.one_of(ended)])

    def in_order(self, forms: Sequence[Format]) -> Format:
        if not forms:
            return self.letters("")
        return forms[0] if len(forms) == 1 else {"type": "sequence", "elements": forms}

    def one_of(self, forms: Sequence[Format]) -> Format:
        return forms[0] if len(forms) == 1 else {"type": "or", "elements": forms}

    def repeated(self, form: Format, times: Times) -> Format:
        return {"type": _REPEATED[times], "content": form}

    def _end(self, end: str) -> Format:
        """A special token may also be written letter by letter."""
        letters = self.letters(end)
        return self.one_of([self.literal(end), letters]) if end in self._special_tokens else letters
