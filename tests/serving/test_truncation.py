import numpy as np
import pytest

from lightllm.base.request import SamplingParams
from lightllm.serving.truncation import truncated

PROMPT = np.arange(10)


def kept(*, most=100, mode=None, **given):
    return truncated(PROMPT, SamplingParams(**given), most=most, mode=mode).tolist()


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("head", [5, 6, 7, 8, 9]), ("tail", [0, 1, 2, 3, 4]), ("center", [0, 1, 7, 8, 9]), (None, list(range(10)))],
)
def test_a_prompt_that_is_too_long_loses_what_the_mode_says(mode, expected):
    assert kept(most=5, mode=mode) == expected
    assert kept(most=10, mode=mode) == PROMPT.tolist()


def test_one_token_is_kept_of_the_center():
    assert kept(most=1, mode="center") == [9]


def test_a_prompt_is_as_long_as_its_request_says():
    assert kept(truncate_prompt_tokens=3) == [7, 8, 9]
    assert kept(truncate_prompt_tokens=3, truncation_side="right") == [0, 1, 2]
    assert kept(truncate_prompt_tokens=30) == PROMPT.tolist()
    assert kept(truncate_prompt_tokens=-1, most=4) == [6, 7, 8, 9]
    assert kept(truncate_prompt_tokens=8, most=2, mode="tail") == [2, 3], "and then as the server wants it"


def test_where_no_prompt_fits_nothing_is_cut():
    assert kept(most=0, mode="head") == PROMPT.tolist()
