"""Every format reads its samples, and reads them the same wherever they are cut into pieces."""

import json
from importlib import import_module
from random import Random

import pytest

from lightllm.serving.parsing.choice import TOOL_FORMATS
from tests.serving.parsing.answers import Answer, cut, parse
from tests.serving.parsing.samples import Sample

_SHORT = 50  # characters up to which every pair of places is tried
_MODULES = {"json": "json_objects"}
FORMATS = {format.name: format for format in TOOL_FORMATS}


def samples_of(name: str) -> dict[str, Sample]:
    return import_module(f"tests.serving.parsing.samples.{_MODULES.get(name, name)}").SAMPLES


SAMPLES = {f"{name}: {about}": (name, sample) for name in FORMATS for about, sample in samples_of(name).items()}
all_samples = pytest.mark.parametrize(("name", "sample"), SAMPLES.values(), ids=SAMPLES)


def whole(name: str, sample: Sample) -> Answer:
    return parse([sample.text], FORMATS[name])


@all_samples
def test_a_sample_says_what_it_says(name, sample):
    answer = whole(name, sample)
    assert (answer.content, answer.reasoning) == (sample.content, sample.reasoning)
    assert [call for call, _ in answer.calls] == [call for call, _ in sample.calls]
    for (_, text), (_, expected) in zip(answer.calls, sample.calls, strict=True):
        assert (text if isinstance(expected, str) else json.loads(text)) == expected


@all_samples
def test_a_sample_cut_anywhere_says_the_same(name, sample):
    expected, text = whole(name, sample), sample.text
    assert parse(text, FORMATS[name]) == expected, "one character at a time"
    for place in range(1, len(text)):
        assert parse(cut(text, place), FORMATS[name]) == expected, f"cut at {place}"
    if len(text) <= _SHORT:
        for first in range(1, len(text)):
            for second in range(first + 1, len(text)):
                assert parse(cut(text, first, second), FORMATS[name]) == expected, f"cut at {first} and {second}"


@all_samples
def test_a_sample_cut_at_random_says_the_same(name, sample):
    random, text, expected = Random(0), sample.text, whole(name, sample)
    for _ in range(20):
        places = random.sample(range(len(text) + 1), min(len(text), random.randint(1, 9)))
        assert parse(cut(text, *places), FORMATS[name]) == expected, places


@pytest.mark.parametrize("name", FORMATS)
def test_there_are_samples_of_every_format(name):
    assert len(samples_of(name)) >= 6
