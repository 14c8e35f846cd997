import numpy as np
import pytest

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.base.request_table import NO_TOKEN_WORDS
from lightllm.base.token_words import mask_of, pack
from lightllm.serving.wanted_tokens import words_of

VOCABULARY, EOS = 100, [2, 3]


def wanted(**given):
    return words_of(SamplingParams(**given), vocabulary=VOCABULARY, eos_ids=EOS)


def test_who_asks_for_nothing_has_no_words():
    assert wanted() is NO_TOKEN_WORDS
    assert wanted(stop_token_ids=[5], min_tokens=3, exponential_decay_length_penalty=(1, 1.0)) is NO_TOKEN_WORDS


def test_everything_at_once():
    got = wanted(
        logit_bias={4: -100, 5: 1.5},
        bad_words_token_ids=[[6, 7]],
        exponential_decay_length_penalty=(5, 1.1),
        allowed_token_ids=[1, 8, 9],
        first_token_ids=[9, 8, 50],
    )
    assert got == pack(
        biases=[((4,), -100.0), ((5,), 1.5), ((6, 7), -np.inf)],
        ends=EOS,
        mask=mask_of([1, 8, 9], VOCABULARY),
        first_mask=mask_of([8, 9], VOCABULARY),
    )


REFUSED = {
    "logit_bias": {"logit_bias": {VOCABULARY: 1.0}},
    "allowed_token_ids": {"allowed_token_ids": [1, VOCABULARY]},
    "first_token_ids": {"first_token_ids": [VOCABULARY]},
    "stop_token_ids": {"stop_token_ids": [VOCABULARY]},
    "bad_words_token_ids": {"bad_words_token_ids": [[1, VOCABULARY]]},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 1.5), "ignore_eos": True},
    "bad_words": {"bad_words_token_ids": [[1] * 100] * 300},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(name):
    with pytest.raises(RequestError, match=name) as caught:
        wanted(**REFUSED[name])
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("allowed_token_ids", {"allowed_token_ids": [2, 3], "min_tokens": 1}),
        ("allowed_token_ids", {"allowed_token_ids": [5, 2], "min_tokens": 1, "stop_token_ids": [5]}),
        ("allowed_token_ids", {"allowed_token_ids": [5, 6], "bad_words_token_ids": [[5], [1, 6]]}),
        ("first_token_ids", {"allowed_token_ids": [5, 6], "first_token_ids": [7]}),
    ],
)
def test_a_choice_that_may_leave_nothing_is_refused(name, given):
    with pytest.raises(RequestError, match="may leave no token") as caught:
        wanted(**given)
    assert caught.value.param == name
    wanted(**{key: value for key, value in given.items() if key not in ("min_tokens", "bad_words_token_ids", name)})
