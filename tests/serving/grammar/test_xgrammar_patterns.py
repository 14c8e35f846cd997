"""Patterns as xgrammar is given them say what they said, and within JSON nothing that would have to be escaped."""

import itertools
import json
import re

import pytest

from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.xgrammar_patterns import in_json, whole

TEXTS = ["".join(text) for length in range(4) for text in itertools.product('ab1 é^-]"\\\n\x01', repeat=length)]
ENFORCED = (
    "a", "^ab", "ab$", "^a+$", "^a|b$", "a|^b", "^.{1,2}$", "^[^a]$", "^[a-]+$", "^[-a]$", r"^[\]a]$", r"^[\^a]$",
    r"^[\^-a]$", r"^\^$", '^["a]$', r"^[\\b]+$", "^[ -~]*$", r"^[\s\S]{2}$", r"^[\S]+$", r"^[^\d]$", r"^\d\D$",
    r"^\w-\w$", r"^\x61$", r"^\u0061$", r"^[\x00-a]$", "^(?:a|b)1$", "^(a|b){2}$", "", "^$", "|a", "^[à-ü]$", r"^\.?a$",
    r"^[^\n]$",
)  # fmt: skip
REFUSED = {
    "^(?=a).": "look-around", "(?<!a)b": "look-around", "(?i)a": "flags", r"(a)\1": r"\\1", r"a\b": r"\\b",
    r"\p{L}": r"\\p", r"\Aa": r"\\A", "a^b": "middle", "(^a)$": "middle", "$a": "middle", "a\\": "backslash",
    '^"a': "escape", r"^\\$": "escape", r"a\n": "escape", r"[\n]": "escape", r"^[\x00-\x1f]$": "escape",
}  # fmt: skip


@pytest.mark.parametrize("pattern", ENFORCED)
def test_within_json_a_pattern_is_searched_for_in_what_needs_no_escapes(pattern):
    plain = [text for text in TEXTS if json.dumps(text, ensure_ascii=False) == f'"{text}"']
    assert len(plain) > 500
    for text in plain:
        assert bool(re.fullmatch(in_json(pattern), text)) == bool(re.search(pattern, text, re.ASCII)), text
    assert not any(re.fullmatch(in_json(pattern), text) for text in set(TEXTS) - set(plain))


@pytest.mark.parametrize("pattern", ENFORCED)
def test_a_pattern_of_its_own_matches_the_whole_text(pattern):
    for text in TEXTS:
        assert bool(re.fullmatch(whole(pattern), text)) == bool(re.fullmatch(pattern, text, re.ASCII)), text


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_xgrammar_would_ignore_or_write_wrongly_is_refused(pattern):
    with pytest.raises(UnenforceableError, match=REFUSED[pattern]):
        in_json(pattern)
