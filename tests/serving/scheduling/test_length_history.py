from types import SimpleNamespace

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.length_history import LengthHistory
from lightllm.serving.scheduling.lengths import Outputs

QUANTILES = (np.arange(64)[:, None] + 0.5) / 64


def request(
    prompt_length: int = 100,
    max_tokens: int = 5000,
    *,
    given: bool = True,
    can_stop: bool = True,
    order: int = 0,
):
    return SimpleNamespace(
        order=order, prompt_length=prompt_length, max_tokens=max_tokens, max_tokens_given=given,
        can_stop=can_stop, min_tokens=0,
    )  # fmt: skip


def history(lengths: list[int] | np.ndarray = (), *, window: int = 1000, of=None) -> LengthHistory:
    """Knows outputs of requests that came in no particular order before all others."""
    predictor = LengthHistory(EngineConfig(prediction_window=window, router_max_new_token_len=2048))
    for length, order in zip(lengths, np.random.default_rng(0).permutation(len(lengths)), strict=True):
        asked = of or request()
        asked.order = int(order) - len(lengths)
        predictor.observe(asked, int(length))
    return predictor


def drawn(predictor: LengthHistory, of=None) -> np.ndarray:
    return predictor.draw(Outputs.of_request(of or request()), QUANTILES)[:, 0]


def running(produced: list[int]) -> Outputs:
    count, made = len(produced), np.array(produced)
    ones = np.ones(count, dtype=np.int64)
    return Outputs(
        order=1000 + np.arange(count), prompt_length=100 * ones, max_tokens=5000 * ones, max_tokens_given=ones > 0,
        can_stop=ones > 0, produced=made, least=made + 1,
    )  # fmt: skip


def test_where_nothing_is_known_it_is_careful():
    assert (drawn(history()) == 5000).all()
    assert (drawn(history(), request(given=False)) == 2048).all()
    assert (drawn(history(), request(max_tokens=300, given=False)) == 300).all()
    assert history().expected_output(request(given=False)) == 2048


def test_it_grows_less_careful_with_each_that_ends():
    shares = [np.mean(drawn(history([100] * count)) == 5000) for count in (0, 4, 8, 12, 16)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[2]) == (1.0, 0.5)
    assert shares[-1] < 0.05


def test_what_cannot_stop_is_known_and_says_nothing_about_others():
    predictor = history([5000] * 200, of=request(can_stop=False))
    assert predictor.num_observed == 0
    assert predictor.expected_output(request(max_tokens=777, can_stop=False)) == 777


def test_a_shift_is_forgotten_within_one_window():
    before, after = np.arange(100, 200), np.arange(1000, 1100)
    predictor = history([*before, *after], window=100)
    assert predictor.num_observed == 100
    assert np.array_equal(drawn(predictor), drawn(history(after, window=100)))
    assert drawn(predictor)[:-1].min() >= 1000


def test_outputs_that_grow_beyond_all_that_ended_are_noticed_before_they_end():
    predictor, quantiles = history(range(1, 301)), np.repeat(QUANTILES, 101, axis=1)
    calm = predictor.draw(running([10] * 100 + [0]), quantiles)[:, -1]
    shifted = predictor.draw(running([900] * 100 + [0]), quantiles)[:, -1]
    assert np.mean(calm > 900) < 0.05
    # The newest 128 are told from the others: these 100, and what is left.
    assert np.mean(shifted > 900) == pytest.approx(100 / 128, abs=0.05)


def test_requests_are_told_apart_by_prompt_and_maximum_once_enough_are_known():
    predictor, orders = history(), iter(np.random.default_rng(0).permutation(200).tolist())
    for length in range(64):
        predictor.observe(request(prompt_length=2000, order=next(orders)), 10 + length % 3)
        predictor.observe(request(max_tokens=600, order=next(orders)), 500 + length % 3)
    for _ in range(63):
        predictor.observe(request(order=next(orders)), 1000)
    assert 10 <= np.median(drawn(predictor, request(prompt_length=3000))) <= 12
    assert 500 <= np.median(drawn(predictor, request(max_tokens=700))) <= 502
    # One too few of this class: all are asked.
    assert set(drawn(predictor)[[5, 30, 60]] // 100) == {0, 5, 10}
    predictor.observe(request(), 1000)
    assert np.median(drawn(predictor)) == 1000


def test_one_that_ran_into_its_maximum_would_have_become_longer():
    predictor = history([100] * 50)
    for _ in range(50):
        predictor.observe(request(max_tokens=5000), 5000)
        predictor.observe(request(max_tokens=4096), 4096)
    assert np.mean(drawn(predictor, request(max_tokens=8000)) >= 4096) > 0.6


def test_a_mean_is_expected():
    predictor = history(range(1, 1001))
    assert predictor.expected_output(request(max_tokens=5000)) == pytest.approx(500, rel=0.05)
    assert predictor.expected_output(request(max_tokens=10)) == pytest.approx(10, abs=1)


def test_after_a_change_only_what_came_since_is_asked():
    predictor = history([20] * 500 + [30] * 500)
    for number in range(40):
        predictor.observe(request(order=1 + number), 700 + number)
    lengths = drawn(predictor, request(order=50))
    assert np.median(lengths) > 700
    # Of what came before nothing is left.
    assert lengths.min() >= 700
