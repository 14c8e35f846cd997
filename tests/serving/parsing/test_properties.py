"""What holds for any text: it is read the same in any pieces, once, nothing of it is lost, and nothing raises."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightllm.serving.parsing import output
from lightllm.serving.parsing.choice import REASONING_FORMATS, TOOL_FORMATS
from lightllm.serving.parsing.reader import Reader
from tests.serving.parsing.answers import TOOLS, cut, new_parser, parse
from tests.serving.parsing.written import AMONG_TEXT

FORMATS = {format.name: format for format in TOOL_FORMATS}
REASONING = {format.name: format for format in REASONING_FORMATS}
every_format = pytest.mark.parametrize("name", FORMATS)
few = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no failure
)

PIECES = [
    '{"name": "get_weather"', ', "arguments": ', ', "parameters": ', '{"city": "', '"}', "{", "}", "[", "]", '"', "\\",
    "'", ":", ",", ";", " ", "\n", "\n\n", "§", "§ §", "get_weather", "get_time\n{}", "(", ")", "city=", "1", "```",
    "<tool_call>", "</tool_call>", "<", "function", "é", "世界", "<think>", "</think>", " to=functions.run",
]  # fmt: skip


def texts_of(name: str) -> st.SearchStrategy[str]:
    """Markers of the format and things that stand near them, in any order."""
    markers = [*FORMATS[name].markers, "<parameter=city>\n", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>"]
    call = AMONG_TEXT[name]("get_weather", {"city": "Paris"})
    return st.lists(st.sampled_from([*PIECES, *markers, *markers, call, call[:20], call[20:]]), max_size=20).map(
        "".join
    )


@every_format
@few
@given(data=st.data())
def test_any_text_is_read_the_same_in_any_pieces(name, data):
    text = data.draw(texts_of(name))
    reasoning = data.draw(st.sampled_from([None, REASONING["qwen3"], REASONING["tags"]]))
    whole = parse([text], FORMATS[name], reasoning)
    assert parse(text, FORMATS[name], reasoning) == whole
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=5))
    assert parse(cut(text, *places), FORMATS[name], reasoning) == whole


@every_format
@few
@given(data=st.data())
def test_no_text_is_lost(name, data):
    text = data.draw(texts_of(name))
    answer = parse([text], FORMATS[name])
    said = answer.content + answer.reasoning + "".join(name + arguments for name, arguments in answer.calls)
    if not answer.calls and name != "gpt_oss":
        assert answer.content == text
    # A header of the harmony format is not shown, whatever it says.
    assert said.count("§") == text.count("§") or name == "gpt_oss"


@every_format
@few
@given(data=st.data())
def test_where_one_call_is_all_the_answer_ends_before_what_follows_it(name, data):
    text = data.draw(texts_of(name))
    parser = new_parser(FORMATS[name], most_calls=1)
    output, used = parser.output, 0
    for character in text:
        parser.feed(character)
        used = output.reader.used if output.end is None else used
    parser.finish()
    assert output.end is None or used <= output.end, "nothing behind the end was taken for certain"
    alone = parse([text[: output.end]], FORMATS[name])
    assert len(alone.calls) <= 1
    assert parse([text], FORMATS[name], most_calls=1) == parse(text, FORMATS[name], most_calls=1) == alone


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text('a"\\{}[]\n é世<>/`|', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab é", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
calls = st.tuples(
    st.sampled_from(list(TOOLS)), st.dictionaries(st.sampled_from(["x", "city", "y_1"]), values, max_size=3)
)
texts = st.text("ab. \né世-", max_size=10)
Part = tuple[str, tuple[str, dict]]


def as_written_by(name: str, parts: list[Part], last: str) -> tuple[list[Part], str]:
    """Texts and calls, without what a format cannot say so that it is read again."""
    if name in ("qwen3_coder", "glm45"):  # a value is text until its end tag, and JSON by its schema only
        return [(text, (tool, {"x": len(arguments)})) for text, (tool, arguments) in parts], last
    if name in ("llama3", "glm4", "gpt_oss"):  # no text but before the first call
        return [("" if i else text, call) for i, (text, call) in enumerate(parts)], "" if parts else last
    return parts, last


@every_format
@few
@given(parts=st.lists(st.tuples(texts, calls), max_size=4), last=texts)
def test_what_is_written_is_read_again(name, parts, last):
    parts, last = as_written_by(name, parts, last)
    answer = parse(["".join(text + AMONG_TEXT[name](*call) for text, call in parts) + last], FORMATS[name])
    assert [(tool, json.loads(arguments)) for tool, arguments in answer.calls] == [call for _, call in parts]
    assert without_space(answer.content) == without_space("".join([*(text for text, _ in parts), last]))


def without_space(text: str) -> str:
    return "".join(text.split())


@every_format
def test_no_text_is_gone_through_twice(name, monkeypatch):
    """So that long texts which lead nowhere hold up nobody: looks at the text are counted, not seconds."""
    looks = 0

    class CountingReader(Reader):
        def _look(self, method, *arguments):
            nonlocal looks
            looks += 1
            return (yield from method(*arguments))

        def until(self, *arguments):
            return self._look(super().until, *arguments)

        def skip(self, *arguments):
            return self._look(super().skip, *arguments)

        def run(self, *arguments):
            return self._look(super().run, *arguments)

    monkeypatch.setattr(output, "Reader", CountingReader)
    for piece in [*FORMATS[name].markers, '<tool_call>{"a":["', '{"name":', '{"function":', "[", "\n", "\\", '"']:
        text, looks = piece * (4000 // len(piece)), 0
        parse([text], FORMATS[name], REASONING["tags"])
        assert looks < 2 * len(text), piece
