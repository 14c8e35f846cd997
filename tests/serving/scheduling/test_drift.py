"""What was learned before requests changed is told from what holds now."""

import numpy as np
import pytest

from lightllm.serving.scheduling.drift import newest_alike


def outputs(old: np.ndarray, new: np.ndarray, *, produced: int = 10**6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arguments, in no particular order: `old` have ended, of `new` those that are longer than `produced` run."""
    lengths = np.concatenate([old, np.minimum(new, produced)])
    has_ended = np.concatenate([np.ones(len(old), dtype=np.bool_), new <= produced])
    mixed = np.random.default_rng(0).permutation(len(lengths))
    return mixed, lengths[mixed], has_ended[mixed]


def drawn(seed: int, count: int, mean: float) -> np.ndarray:
    return 1 + np.random.default_rng(seed).exponential(mean, count).astype(np.int64)


def test_outputs_of_the_same_kind_are_all_alike_whether_they_have_ended_or_not():
    alike = [
        newest_alike(*outputs(drawn(seed, 500, 200), drawn(1000 + seed, 60, 200), produced=produced)).all()
        for seed in range(100)
        for produced in (20, 200, 2000)
    ]
    assert np.mean(alike) >= 0.99


@pytest.mark.parametrize("mean", [2000, 4])
def test_a_change_is_seen_in_either_direction(mean: int):
    arguments = outputs(drawn(0, 500, 50), drawn(1, 64, mean))
    alike = newest_alike(*arguments)
    order = arguments[0]
    assert (order[alike] >= 500).all()
    assert alike.sum() == 64


def test_longer_outputs_are_seen_before_one_of_them_has_ended():
    arguments = outputs(drawn(0, 500, 20), np.full(16, 5000), produced=100)
    alike = newest_alike(*arguments)
    assert alike.sum() == 16
    assert not arguments[2][alike].any()


def test_outputs_that_have_only_begun_say_nothing():
    assert newest_alike(*outputs(drawn(0, 500, 200), np.full(100, 5000), produced=1)).all()


def test_of_few_outputs_nothing_is_said():
    assert newest_alike(*outputs(np.full(10, 3), np.full(21, 900))).all()
    assert newest_alike(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)).all()


def deviations(order: np.ndarray, lengths: np.ndarray, has_ended: np.ndarray, newest: int) -> float:
    """z, by the definition."""
    new = set(np.argsort(-order)[:newest].tolist())
    difference = variance = 0.0
    left = set(range(len(order)))
    for at in sorted(left, key=lambda at: (lengths[at], not has_ended[at])):
        if has_ended[at]:
            share = len(new & left) / len(left)
            difference, variance = difference + (at in new) - share, variance + share * (1 - share)
        left.remove(at)
    return abs(difference) / max(variance, 1e-9) ** 0.5


@pytest.mark.parametrize("seed", range(12))
def test_the_plainest_change_is_found_by_the_definition(seed: int):
    old, new = drawn(seed, 60 + 10 * seed, 30), drawn(50 + seed, 20 + 9 * seed, 30 + 25 * (seed % 4))
    order, lengths, has_ended = outputs(old, new, produced=60)
    z = {
        newest: deviations(order, lengths, has_ended, newest)
        for newest in (16, 32, 64, 128)
        if newest <= len(order) - 16
    }
    plainest = max(z, key=lambda newest: z[newest])
    count = plainest if z[plainest] > 4 else len(order)
    assert set(order[newest_alike(order, lengths, has_ended)]) == set(np.sort(order)[-count:])
