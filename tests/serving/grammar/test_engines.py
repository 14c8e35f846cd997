"""What an engine lets through, and what it refuses and by which name."""

import json
import random

import jsonschema
import numpy as np
import pytest

from lightllm.base.grammar import (
    AnyText,
    ConstString,
    ContextFree,
    Either,
    JsonSchema,
    Optional,
    Plus,
    Regex,
    Sequence,
    Star,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
)
from lightllm.base.masks import words_of
from lightllm.serving.grammar.engine import UnenforceableError
from tests.serving.grammar import schemas
from tests.serving.grammar.engines import (
    END,
    VOCAB,
    allowed,
    engine,
    every_engine,
    follows,
    needs_xgrammar,
    tokenizer,
)

POINT = JsonSchema(
    {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
)
CALL = Tag('<tool_call>\n{"name": "f", "arguments": ', POINT, "}\n</tool_call>")
CALLED = '<tool_call>\n{"name": "f", "arguments": {"x": 5}}\n</tool_call>'
CASES = {
    "schema": (POINT, ['{"x": 5}', '{\n  "x": -12\n}'], ['{"x": "5"}', '{"x": 5, "y": 1}', "{}", '{"x": 5} ok']),
    "regex": (Regex("a/b{2}|é+"), ["a/bb", "ééé"], ["a/b", "éa", ""]),
    "pattern with ends": (Regex("^a.|b$"), ["ab", "b"], ["a", "bb", "a\n"]),
    "gbnf": (ContextFree('root ::= "yes" | "no" root'), ["yes", "nonoyes"], ["no", "yesyes"]),
    "choice": (Either([ConstString("red"), ConstString("dark red")]), ["red", "dark red"], ["dark", "blue"]),
    "repeated": (
        Sequence([Star(ConstString("a")), Plus(ConstString("b")), Optional(ConstString("c"))]),
        ["aabbc", "b"],
        ["aac", "bcc"],
    ),
    "any text": (AnyText(), ["", "all of it\n{"], []),
    "special token": (Sequence([ConstString("a<|im_start|>b")]), ["a<|im_start|>b"], ["ab"]),
    "free text before a tag": (
        Sequence([Optional(Tag("<think>", AnyText(), "</think>")), POINT]),
        ['<think>so { </thin </think>{"x": 1}', '{"x": 1}'],
        ["<think>hm", '<think></think>{"y": 1}'],
    ),
    "triggered tags": (
        TriggeredTags(["<tool_call>"], [CALL]),
        ["hello", f"so {CALLED} and {CALLED}"],
        ['<tool_call>\n{"name": "g"', '<tool_call>\n{"name": "f", "arguments": {"x": ""}}'],
    ),
    "triggered tags with letters for a special token": (
        TriggeredTags(["<tool"], [Tag("<tool>", Regex("[0-9]"), "</tool>")]),
        ["a <tool>1</tool> <too", "<tool>2</tool><tool>3</tool>"],
        ["<tool>x</tool>", "a <tools"],
    ),
    "two triggers": (
        TriggeredTags(["<a", "<b"], [Tag("<a>", Regex("[0-9]"), "</a>"), Tag("<b>", Regex("[a-z]"), "</b>")]),
        ["", "x <a>1</a> y <b>z</b> <", "<b>z</b><a>1</a>"],
        ["<b>1</b>", "<a>z</a> <b>z</b>", "x <b"],
    ),
    "one triggered tag": (
        TriggeredTags(["<tool_call>"], [CALL], at_least_one=True, stop_after_first=True),
        [f"so {CALLED}"],
        ["hello", f"{CALLED}{CALLED}"],
    ),
    "tags alone": (
        TagsWithSeparator([CALL], "\n", at_least_one=True),
        [CALLED, f"{CALLED}\n{CALLED}"],
        ["", f"so {CALLED}", f"{CALLED}{CALLED}"],
    ),
}
REFUSED = {
    "uniqueItems": JsonSchema({"type": "array", "uniqueItems": True}),
    "not": JsonSchema({"properties": {"a": {"not": {"type": "string"}}}}),
    "if": JsonSchema({"if": {"type": "string"}, "then": {"maxLength": 3}}),
    "propertyNames": JsonSchema({"propertyNames": {"maxLength": 3}}),
    "dependentRequired": JsonSchema({"dependentRequired": {"a": ["b"]}}),
    "contains": JsonSchema({"contains": {"const": 1}}),
    "unevaluatedProperties": JsonSchema({"unevaluatedProperties": False}),
    "oneOf": JsonSchema({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    "format": JsonSchema({"type": "string", "format": "colour"}),
    "look-a": JsonSchema({"type": "string", "pattern": "(?=a)b"}),
    "minimum": JsonSchema({"type": "number", "minimum": 3, "maximum": 2}),
    "Invalid type": JsonSchema({"type": "text"}),
    "false": JsonSchema(False),
    "minLength": JsonSchema({"type": "string", "minLength": 3, "maxLength": 2}),
    "required|unsatisfiable": JsonSchema({"type": "object", "properties": {"a": False}, "required": ["a"]}),
    "too large|allOf": JsonSchema(
        {"$defs": {"a": {"anyOf": [{"type": "integer"}] * 9}}, "allOf": [{"$ref": "#/$defs/a"}] * 9}
    ),
    "unclosed|not closed": Regex("(a"),
    "trigger": TriggeredTags(["<x>"], [CALL]),
    "triggers": TriggeredTags([], []),
    "tags": TagsWithSeparator([], ","),
    "any_text": Sequence([AnyText(), POINT]),
    "or": Either([]),
}


@every_engine
@pytest.mark.parametrize(("grammar", "right", "wrong"), CASES.values(), ids=CASES)
def test_only_answers_that_follow_the_grammar_can_be_written(grammar, right, wrong, mode):
    assert [text for text in right if not follows(grammar, text, mode)] == []
    assert [text for text in wrong if follows(grammar, text, mode)] == []


@every_engine
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_by_its_name(name, mode):
    with pytest.raises(UnenforceableError, match=name):
        engine(mode).compile(REFUSED[name])


def test_a_grammar_too_big_is_refused():
    with pytest.raises(UnenforceableError, match="too big"):
        engine().compile(JsonSchema({"enum": [f"value {i}" for i in range(100_000)]}))


def test_larks_notation_is_known_to_llguidance_alone():
    lark = ContextFree('start: "yes" | "no" start')
    assert follows(lark, "nonoyes")
    assert not follows(lark, "no")


@needs_xgrammar
@pytest.mark.parametrize(
    "rules",
    [
        'start: "yes" | "no"',
        'root ::= Token(2) "a"',
        'root ::= TagDispatch(("a", b))\nb ::= "c"',
        'root ::= "a" (="b")',
        'root ::= Regex("a")',
    ],
)
def test_what_is_not_gbnf_is_refused_by_xgrammar(rules):
    with pytest.raises(UnenforceableError, match="not (in )?GBNF"):
        engine("xgrammar").compile(ContextFree(rules))
    nested = ContextFree('root ::= token ((token | [(=]) "Token(2)") # (= TagDispatch(\ntoken ::= "a"')
    assert follows(nested, "a(Token(2)", "xgrammar")


def test_a_schema_cannot_loosen_its_own_enforcement():
    loose = {"x-guidance": {"lenient": True, "coerce_one_of": True, "whitespace_pattern": "[ x]+"}}
    with pytest.raises(UnenforceableError, match="uniqueItems"):
        engine().compile(JsonSchema({**loose, "type": "array", "uniqueItems": True}))
    assert not follows(JsonSchema({**loose, "type": "array", "items": {"type": "null"}}), "[xnull]")


@every_engine
def test_a_matcher_goes_back_and_says_no(mode):
    matcher, masks = engine(mode).compile(Regex("ab|ac")).new_matcher(), np.zeros((1, words_of(VOCAB)), np.int32)
    a, b, c = (tokenizer().token_to_id(letter) for letter in "abc")
    for token in (a, b):
        assert matcher.consume(token)
    matcher.rollback(1)
    assert engine(mode).fill([matcher], [0], masks) == [True]
    assert {b, c} <= set(allowed(masks[0]))
    matcher.consume(c)
    assert engine(mode).fill([matcher], [0], masks) == [True]
    assert END in allowed(masks[0])
    matcher.rollback(2)
    assert engine(mode).fill([matcher], [0], masks) == [True]
    assert a in allowed(masks[0])
    assert b not in allowed(masks[0])
    matcher.consume(b)
    assert engine(mode).fill([matcher], [0], masks) == [False]
    assert not matcher.consume(a)


def random_answer(schema: dict, seed: int, mode: str) -> str:
    """An answer that is drawn from all that the masks allow, each token as likely as any other."""
    random_, masks, tokens = random.Random(seed), np.zeros((1, words_of(VOCAB)), np.int32), []
    matcher = engine(mode).compile(JsonSchema(schema)).new_matcher()
    while len(tokens) < 4000:
        assert engine(mode).fill([matcher], [0], masks) == [True]
        choices = allowed(masks[0])
        token = END if END in choices and random_.random() < 0.7 else int(random_.choice(choices))
        if token in (0, END):
            return tokenizer().decode(tokens, skip_special_tokens=False)
        assert matcher.consume(token)
        tokens.append(token)
    raise AssertionError("the answer has no end")


@every_engine
def test_whatever_the_masks_allow_satisfies_the_schema(mode):
    made = [schemas.make(seed) for seed in range(130)]
    if mode == "xgrammar":  # allOf is refused
        made = [schema for schema in made if "allOf" not in json.dumps(schema)]
    assert len(made) > 100
    for seed, schema in enumerate(made):
        jsonschema.Draft202012Validator.check_schema(schema)
        answer = json.loads(random_answer(schema, seed, mode))
        jsonschema.validate(answer, schema, jsonschema.Draft202012Validator)
