import math

import msgspec
import pytest

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.5),
        ("frequency_penalty", math.nan),
        ("seed", 2**64),
        ("stop", [""]),
        ("stop", ["x"] * 65),
        ("stop_token_ids", [-1]),
        ("logprobs", 21),
        ("typical_p", 0.0),
        ("typical_p", math.nan),
        ("logit_bias", {1: 100.5}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", dict.fromkeys(range(301), 0.0)),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [2**31]),
        ("first_token_ids", []),
        ("bad_words", [""]),
        ("bad_words", ["x"] * 257),
        ("bad_words_token_ids", [[]]),
        ("exponential_decay_length_penalty", (-1, 1.0)),
        ("exponential_decay_length_penalty", (0, 0.9)),
        ("exponential_decay_length_penalty", (0, math.inf)),
        ("truncate_prompt_tokens", 0),
    ],
)
def test_what_is_not_allowed_is_refused_by_name_with_what_is(name, value):
    with pytest.raises(RequestError, match=f"{name}=.* is not allowed; use ") as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert caught.value.status == 400


def test_neutral_values_and_bounds_are_allowed():
    SamplingParams()
    SamplingParams(n=128, temperature=0, top_p=1, top_k=0, min_p=1, seed=-1, logprobs=20, stop=["x"] * 64)


def test_a_single_stop_string_is_a_list_of_one():
    assert SamplingParams(stop="END").stop == ["END"]


def test_what_cannot_be_a_setting_is_refused():
    with pytest.raises(TypeError, match="heat"):
        SamplingParams(heat=1)  # type: ignore[call-arg]
    with pytest.raises(msgspec.ValidationError, match="stop"):
        msgspec.convert({"stop": [5]}, SamplingParams)
