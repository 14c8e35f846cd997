"""The grammar of a chat's whole answer: calls that are required or strict, and the form that was asked for, after
whatever is reasoned."""

import pytest

from lightllm.base.errors import RequestError
from lightllm.base.grammar import Grammar, JsonSchema
from lightllm.base.request import SamplingParams
from lightllm.serving.api.chat_grammar import held
from lightllm.serving.api.chat_parsing import ChatParsing
from lightllm.serving.api.tool_choice import ToolChoice
from lightllm.serving.parsing.choice import REASONING_FORMATS, TOOL_FORMATS
from lightllm.serving.parsing.forms import Tool
from lightllm.serving.parsing.reasoning import Beginning
from tests.serving.grammar.engines import every_engine, follows

TOOLS = {format.name: format for format in TOOL_FORMATS}
REASONING = {format.name: format for format in REASONING_FORMATS}
DIGIT = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False}
LOOSE, STRICT = Tool("f", DIGIT), Tool("f", DIGIT, is_strict=True)
CALL = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
ANSWER = JsonSchema({"enum": ["yes", "no"]})


def grammar(choice=None, asked=None, *, tools="hermes", reasoning=None, beginning=None) -> Grammar | None:
    parsing = ChatParsing(
        TOOLS[tools] if tools else None,
        REASONING[reasoning] if reasoning else None,
        tools={},
        choice=choice or ToolChoice(),
        separates_reasoning=True,
        shows_reasoning=True,
        shown_tokens=frozenset(),
    )
    return held(SamplingParams(grammar=asked), parsing, beginning or Beginning()).grammar


def test_tools_that_are_not_strict_leave_the_answer_free():
    assert grammar(ToolChoice([LOOSE])) is None
    assert grammar() is None


@pytest.mark.parametrize("several", [False, True])
@every_engine
def test_a_required_call_is_all_there_is(several, mode):
    required = grammar(ToolChoice([LOOSE], is_required=True, several=several))
    assert follows(required, CALL, mode)
    assert follows(required, f"{CALL}\n{CALL}", mode) is several
    assert not follows(required, "hello", mode)
    assert not follows(required, CALL.replace("1", "3"), mode)


@pytest.mark.parametrize("several", [False, True])
@every_engine
def test_a_strict_tool_may_be_left_alone_but_not_called_wrongly(several, mode):
    strict = grammar(ToolChoice([STRICT], several=several))
    assert follows(strict, "hello", mode)
    assert follows(strict, f"so {CALL}", mode)
    assert follows(strict, f"{CALL}\n{CALL}", mode) is several
    assert not follows(strict, CALL.replace("1", "3"), mode)


@every_engine
def test_what_was_asked_for_is_the_answer_where_no_tool_is_called(mode):
    either = grammar(ToolChoice([LOOSE]), ANSWER)
    assert follows(either, '"yes"', mode)
    assert follows(either, CALL, mode)
    assert not follows(either, "hello", mode)


@every_engine
def test_what_is_asked_for_comes_after_the_reasoning(mode):
    open_ = grammar(asked=ANSWER, reasoning="qwen3")
    assert follows(open_, '"yes"', mode)
    assert follows(open_, '<think>\nno, {"or"} so\n</think>\n\n"yes"', mode)
    assert not follows(open_, "<think>\nhm\n</think>\n\nhm", mode)
    begun = grammar(asked=ANSWER, reasoning="qwen3", beginning=Beginning(("<think>", "</think>")))
    assert follows(begun, 'no, or so\n</think>\n\n"yes"', mode)
    assert not follows(begun, '"yes"', mode)
    answers = grammar(asked=ANSWER, reasoning="qwen3", beginning=Beginning(is_answer=True))
    assert answers == ANSWER


@every_engine
def test_a_required_call_comes_after_the_reasoning(mode):
    required = grammar(ToolChoice([LOOSE], is_required=True), reasoning="deepseek_r1")
    assert follows(required, f"<think>hm</think>\n{CALL}", mode)
    assert not follows(required, "<think>hm</think>\nhello", mode)


@every_engine
def test_harmony_says_where_each_part_goes(mode):
    analysis = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    text = grammar(asked=ANSWER, tools="gpt_oss", reasoning="gpt_oss")
    assert follows(text, f'{analysis}<|channel|>final<|message|>"yes"', mode)
    assert not follows(text, f"{analysis}<|channel|>final<|message|>hm", mode)
    call = grammar(ToolChoice([LOOSE], is_required=True), tools="gpt_oss", reasoning="gpt_oss")
    written = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    assert follows(call, f'{analysis}{written}{{"x": 1}}<|call|>', mode)
    assert not follows(call, f'{analysis}<|channel|>final<|message|>{{"x": 1}}', mode)


def test_what_cannot_be_told_from_text_is_refused():
    with pytest.raises(RequestError, match="--tool_call_parser"):
        grammar(ToolChoice([LOOSE], is_required=True), tools=None)
    formless = [name for name, format in TOOLS.items() if format.form.among_text([STRICT], several=True) is None]
    for name in formless:
        with pytest.raises(RequestError, match="tool_choice=required"):
            grammar(ToolChoice([STRICT]), tools=name)
    assert formless, "some forms are bare"
