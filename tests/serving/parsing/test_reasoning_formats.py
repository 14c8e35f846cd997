"""Reasoning is told from answers by tags, and by what the prompt leaves to say."""

import pytest

from lightllm.serving.parsing.choice import REASONING_FORMATS
from lightllm.serving.parsing.reasoning import Beginning
from lightllm.serving.parsing.tool_formats import hermes
from tests.serving.parsing.answers import Answer, cut, new_parser, parse

FORMATS = {format.name: format for format in REASONING_FORMATS if format.name != "gpt_oss"}
THINK, OPEN = ("<think>", "</think>"), "the prompt ends with <think>"
ANSWER_ONLY = "the prompt ends with </think>"
CALL = '<tool_call>{"name": "get_time"}</tool_call>'

# format, what the prompt leaves, the answer's text: reasoning, content
SAMPLES = {
    "tags": ("qwen3", "", "<think>\nHm, so.\n</think>\n\nYes.\n", "Hm, so.", "Yes.\n"),
    "space before the tag": ("qwen3", "", "\n <think>Hm</think>Yes", "Hm", "Yes"),
    "no tags": ("qwen3", "", " Yes <think>no</think>", "", " Yes <think>no</think>"),
    "opened by the prompt": ("qwen3", OPEN, "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
    "opened by the prompt and again": ("qwen3", OPEN, "<think>\nHm.</think>Yes.", "Hm.", "Yes."),
    "closed by the prompt": ("qwen3", ANSWER_ONLY, "Yes.</think>", "", "Yes.</think>"),
    "nothing reasoned": ("qwen3", "", "<think>\n\n</think>\n\nYes.", "", "Yes."),
    "no end": ("qwen3", "", "<think>Hm, <b>so</b> </thin", "Hm, <b>so</b> </thin", ""),
    "no answer": ("qwen3", "", "<think>Hm.</think>\n", "Hm.", ""),
    "tags in the reasoning": ("qwen3", "", "<think>a <think> b</think> c </think>", "a <think> b", "c </think>"),
    "a word like the tag": ("qwen3", "", "<thinking>so", "", "<thinking>so"),
    "unicode": ("qwen3", "", "<think>世界 👩‍👩‍👧‍👦\n\n é </think>Größe", "世界 👩‍👩‍👧‍👦\n\n é", "Größe"),
    "implied": ("deepseek_r1", "", "Hm.\n</think>\n\nYes.", "Hm.", "Yes."),
    "implied and said": ("deepseek_r1", "", "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    "implied, but closed by the prompt": ("deepseek_r1", ANSWER_ONLY, "Yes.", "", "Yes."),
    "implied without an end": ("deepseek_r1", "", "Hm. ", "Hm.", ""),
    "GLM": ("glm45", "", "\n<think>Hm.</think>\nYes.", "Hm.", "Yes."),
    "GLM without reasoning": ("glm45", ANSWER_ONLY, "\nYes.", "", "\nYes."),
    "other tags": ("tags", "", "<reasoning>Hm.</reasoning>Yes.", "Hm.", "Yes."),
    "brackets": ("tags", "", "[THINK]Hm [/THIN[/THINK]Yes.", "Hm [/THIN", "Yes."),
    "tags of different words": ("tags", "", "<thought>a</think></thought>b", "a</think>", "b"),
    "opened by the prompt with other tags": ("tags", "Write. <thinking>\n", "a</think></thinking>b", "a</think>", "b"),
}
all_samples = pytest.mark.parametrize(("name", "prompt", "text", "reasoning", "content"), SAMPLES.values(), ids=SAMPLES)
PROMPTS = {OPEN: "user: <think> and </think>? assistant: <think>\n", ANSWER_ONLY: "assistant: <think>\n\n</think>\n\n"}


@all_samples
def test_a_sample_says_what_it_says_wherever_it_is_cut(name, prompt, text, reasoning, content):
    format = FORMATS[name]
    beginning = format.beginning(PROMPTS.get(prompt, prompt or "assistant:"))
    expected = Answer(content=content, reasoning=reasoning)
    assert parse([text], None, format, beginning) == expected
    assert parse(text, None, format, beginning) == expected
    for first in range(1, len(text)):
        for second in range(first, len(text)):
            assert parse(cut(text, first, second), None, format, beginning) == expected, f"cut at {first} and {second}"


@all_samples
def test_reasoning_that_is_not_told_apart_is_content_as_it_stands(name, prompt, text, reasoning, content):
    format = FORMATS[name]
    beginning = format.beginning(PROMPTS.get(prompt, prompt or "assistant:"))
    for pieces in ([text], text):
        answer = parse(pieces, None, format, beginning, separates_reasoning=False)
        assert answer == Answer(content=text)


def test_calls_follow_reasoning_and_are_none_inside_it():
    text = f"<think>I could {CALL}</think>\n{CALL}\n"
    for pieces in ([text], text):
        answer = parse(pieces, hermes.FORMAT, FORMATS["qwen3"])
        assert answer == Answer("", [("get_time", "{}")], f"I could {CALL}", [None])


def test_a_continued_answer_goes_on_where_it_stopped():
    format = FORMATS["qwen3"]
    assert format.beginning_within("<think>Hm, ") == Beginning(THINK)
    assert format.beginning_within("<think>Hm.</think> Yes") == Beginning(is_answer=True)
    assert format.beginning_within("Yes") == Beginning(is_answer=True)
    assert format.beginning_within("") == Beginning()


def test_spans_of_reasoning_are_told_in_characters():
    text = " <think>Hm.</think> Yes"
    for pieces in ([text], text):
        parser = new_parser(None, FORMATS["qwen3"])
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
        assert parser.output.reasoning_spans == [(0, text.index(" Yes"))]
