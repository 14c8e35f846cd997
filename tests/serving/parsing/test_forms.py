"""Answers that are held to a format's form: whatever is written under its grammar, its parser reads as valid calls."""

import json
from random import Random

import jsonschema
import numpy as np
import pytest

from lightllm.base.errors import RequestError
from lightllm.base.grammar import Grammar
from lightllm.base.masks import words_of
from lightllm.serving.parsing.choice import TOOL_FORMATS
from lightllm.serving.parsing.forms import Tool
from tests.serving.grammar.engines import END, VOCAB, allowed, engine, every_engine, follows, tokenizer
from tests.serving.parsing.answers import parse

FORMATS = {format.name: format for format in TOOL_FORMATS}
CITIES = ["Rome", "Zürich 世界"]
PARAMETERS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "days": {"type": "integer", "minimum": 1, "maximum": 99},
            "city": {"type": "string", "enum": CITIES},
            "is_exact": {"type": "boolean"},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "get_time": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [Tool(name, parameters, is_strict=True) for name, parameters in PARAMETERS.items()]
every_format = pytest.mark.parametrize("name", FORMATS)


def written(grammar: Grammar, seed: int, most: int = 1000, mode: str = "llguidance") -> str:
    """What a model writes that knows nothing: any allowed token, and the end as soon as it may."""
    draw, tokens = Random(seed), []
    matcher, masks = engine(mode).compile(grammar).new_matcher(), np.zeros((1, words_of(VOCAB)), np.int32)
    while len(tokens) < most:
        assert engine(mode).fill([matcher], [0], masks) == [True]
        choices = allowed(masks[0]).tolist()
        goes_on = [token for token in choices if tokenizer().decode([token])]
        if END in choices and (not goes_on or draw.random() < 0.5):
            return tokenizer().decode(tokens)
        token = draw.choice(goes_on)
        assert matcher.consume(token)
        tokens.append(token)
    raise AssertionError(f"no end after {most} tokens")


def calls_in(name: str, text: str) -> list[tuple[str, dict]]:
    answer = parse([text], FORMATS[name], tools=PARAMETERS)
    assert not answer.content.strip(), "there is nothing but calls"
    return [(called, json.loads(arguments)) for called, arguments in answer.calls]


@every_engine
@every_format
@pytest.mark.parametrize("several", [False, True])
def test_what_is_written_where_calls_are_required_is_valid_calls(name, several, mode):
    grammar, counts = FORMATS[name].form.calls(TOOLS, several=several), set()
    for seed in range(6):
        calls = calls_in(name, written(grammar, seed, mode=mode))
        for called, arguments in calls:
            jsonschema.validate(arguments, PARAMETERS[called])
        counts.add(len(calls))
    assert min(counts) >= 1
    assert several or counts == {1}


@every_engine
@every_format
def test_a_named_tool_is_the_only_one_that_can_be_called(name, mode):
    grammar = FORMATS[name].form.calls(TOOLS[:1], several=False)
    for seed in range(3):
        [(called, arguments)] = calls_in(name, written(grammar, seed, mode=mode))
        assert (called, arguments["city"] in CITIES) == ("get_weather", True)


@every_engine
@every_format
def test_among_text_a_strict_call_is_right_or_is_none(name, mode):
    form = FORMATS[name].form
    among = form.among_text(TOOLS, several=True)
    call = written(form.calls(TOOLS[:1], several=False), 0, mode=mode)
    if among is None:
        assert not form.trigger
        return
    assert follows(among, "hello", mode)
    assert follows(among, call, mode)
    if form.trigger:
        assert follows(among, f"so: {call}", mode)
    city = next(city for city in CITIES if json.dumps(city, ensure_ascii=False).strip('"') in call)
    assert not follows(among, call.replace(city, "Nowhere"), mode)


def test_what_a_form_cannot_enforce_of_a_strict_tool_is_refused_by_name():
    one = Tool("f", {"type": "object", "properties": {"x": {"type": "string", "pattern": "a+"}}}, is_strict=True)
    with pytest.raises(RequestError, match="'pattern'"):
        FORMATS["qwen3_coder"].form.calls([one], several=False)
    with pytest.raises(RequestError, match="'minProperties'"):
        FORMATS["pythonic"].form.calls([Tool("f", {"minProperties": 1}, is_strict=True)], several=False)


def test_a_form_takes_what_it_can_of_a_tool_that_is_not_strict():
    digit = {"type": "integer", "minimum": 0, "maximum": 9, "unknownKeyword": 1}
    loose = Tool("f", {"type": "object", "properties": {"x": digit}, "additionalProperties": False})
    text = written(FORMATS["hermes"].form.calls([loose], several=False), 1)
    assert parse([text], FORMATS["hermes"], tools={"f": loose.parameters}).calls[0][0] == "f"


@pytest.mark.parametrize("schema", [{"enum": []}, {"enum": [1]}, {"enum": ["a"], "const": "b"}])
def test_a_text_that_nothing_satisfies_is_refused(schema):
    tool = Tool("f", {"properties": {"x": {"type": "string", **schema}}, "required": ["x"]}, is_strict=True)
    with pytest.raises(RequestError, match="nothing satisfies the schema of 'x'"):
        FORMATS["glm45"].form.calls([tool], several=False)


@pytest.mark.parametrize("schema", [{"enum": ["a", 1]}, {"enum": ["a", "b"], "const": "a"}])
def test_a_text_is_held_to_all_that_is_said_of_it(schema):
    tool = Tool("f", {"properties": {"x": {"type": "string", **schema}}, "required": ["x"]}, is_strict=True)
    grammar = FORMATS["qwen3_coder"].form.calls([tool], several=False)
    texts = {written(grammar, seed) for seed in range(3)}
    answers = [parse([text], FORMATS["qwen3_coder"], tools={"f": tool.parameters}) for text in texts]
    assert {json.loads(call)["x"] for answer in answers for _, call in answer.calls} == {"a"}


@pytest.mark.parametrize("name", ["pythonic", "qwen3_coder"])
def test_a_parameter_that_may_not_be_given_is_not(name):
    schema = {"properties": {"x": False, "y": {"type": "integer", "minimum": 1, "maximum": 2}}, "required": ["y"]}
    tool = Tool("f", schema, is_strict=True)
    text = written(FORMATS[name].form.calls([tool], several=False), 0)
    [(_, arguments)] = parse([text], FORMATS[name], tools={"f": schema}).calls
    assert json.loads(arguments).keys() == {"y"}
    with pytest.raises(RequestError, match="nothing satisfies the schema of 'x'"):
        FORMATS[name].form.calls([Tool("f", schema | {"required": ["x"]}, is_strict=True)], several=False)
