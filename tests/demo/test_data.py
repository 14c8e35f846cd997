"""What the demo model is taught: the same on every machine, rightly judged, and never what it is asked in the end."""

from itertools import islice
from random import Random

import pytest

from lightllm.demo.example import Example, draw, is_held_out
from lightllm.demo.mixture import Renderer, sample_chats, sample_texts
from lightllm.demo.reworded import QUESTIONS, ask_reworded
from lightllm.demo.tasks import TASKS
from lightllm.demo.tasks.tools import write_call


@pytest.mark.parametrize("name", TASKS)
def test_checker_takes_its_answer_and_no_other(name: str):
    task = TASKS[name]
    for i in range(20):
        example = draw(task, Random(i), held_out=i % 2 == 0)
        assert task.is_right(example, example.answer)
        assert task.is_right(example, f" {example.answer}\n") or name in ("story", "description")
        for wrong in ("", "x", example.answer + "x", example.answer[:-1], example.answer[1:]):
            assert not task.is_right(example, wrong)


@pytest.mark.parametrize("name", TASKS)
def test_draw_keeps_to_its_side_of_the_split(name: str):
    for i in range(20):
        assert is_held_out(draw(TASKS[name], Random(i), held_out=True).key)
        assert not is_held_out(draw(TASKS[name], Random(i)).key)


def test_held_out_sums_are_never_taught():
    task, random = TASKS["addition_two_digits"], Random(0)
    taught = {draw(task, random).answer for _ in range(20_000)}
    asked = {draw(task, random, held_out=True).answer for _ in range(500)}
    assert len(taught) > 6000
    assert len(asked) > 200
    assert not taught & asked


def test_training_chats_hold_no_held_out_question():
    taught = {message["content"] for chat in islice(sample_chats(Random(0)), 3000) for message in chat.messages}
    for name in ("addition_two_digits", "software", "json_extraction", "tool_call"):
        for i in range(50):
            assert draw(TASKS[name], Random(i), held_out=True).messages[-1]["content"] not in taught


def test_reworded_questions_are_never_taught():
    taught = {message["content"] for chat in islice(sample_chats(Random(0)), 5000) for message in chat.messages}
    assert not taught & {text for text, _ in QUESTIONS}
    assert all(ask_reworded(Random(i)).answer for i in range(100))


def test_same_seed_gives_same_text():
    assert list(islice(sample_texts(Random(3)), 50)) == list(islice(sample_texts(Random(3)), 50))
    assert list(islice(sample_texts(Random(3)), 50)) != list(islice(sample_texts(Random(4)), 50))


def test_a_written_call_is_rendered_as_the_template_does_it():
    function = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}
    messages = [{"role": "user", "content": "Weather?"}]
    structured = [*messages, {"role": "assistant", "content": None, "tool_calls": [{"function": function}] * 2}]
    call = write_call("get_weather", function["arguments"])
    text = Renderer().template.render(messages=structured)
    assert text == Renderer().chat(Example(messages, f"{call}\n{call}", "key"))
