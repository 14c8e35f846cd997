import numpy as np
import pytest

from lightllm.serving.scheduling.survival import Survival

NONE = np.empty(0, dtype=np.int64)
MOST = 100_000


def quantiles(samples: int) -> np.ndarray:
    return (np.arange(samples)[:, None] + 0.5) / samples


def draws(survival: Survival, least: int, most: int = MOST, *, samples: int = 400) -> np.ndarray:
    return survival.draw(np.array([least]), np.array([most]), quantiles(samples))[:, 0]


def test_lengths_are_drawn_as_often_as_they_were_seen():
    seen = np.sort(np.random.default_rng(0).integers(1, 500, 999))
    drawn = draws(Survival.of(seen, NONE), least=1, samples=1000)
    # All but the largest, which stands for what was never seen.
    assert np.abs(drawn[:-1] - seen).max() <= 4
    assert drawn[-1] >= seen[-1]
    assert (np.diff(drawn) >= 0).all(), "a larger quantile is never a shorter output"


@pytest.mark.parametrize("least", [100, 300, 480])
def test_of_outputs_that_became_long_only_those_count_that_became_longer(least: int):
    seen = np.sort(np.random.default_rng(1).integers(1, 500, 1000))
    drawn, longer = draws(Survival.of(seen, NONE), least), seen[seen >= least]
    assert drawn.min() >= least
    for level in (0.1, 0.5, 0.9):
        share = np.mean(drawn <= np.quantile(longer, level))
        assert share == pytest.approx(level * len(longer) / (len(longer) + 1), abs=0.05)


def test_nothing_is_longer_than_allowed_and_what_was_never_seen_lies_beyond_the_longest():
    seen = np.array([10, 20, 30])
    assert draws(Survival.of(seen, NONE), least=1, most=15).max() == 15
    beyond = draws(Survival.of(seen, NONE), least=31, most=310)
    assert (beyond >= 31).all()
    assert np.median(beyond) == pytest.approx(31 * 10**0.5, rel=0.02), "each factor is as likely"
    assert draws(Survival.of(NONE, np.array([50])), least=1, most=80).min() >= 50


@pytest.mark.parametrize("seed", range(3))
def test_what_still_runs_corrects_that_the_short_ones_end_first(seed: int):
    random = np.random.default_rng(seed)
    # 300 outputs began together; 150 tokens later the longer ones still run.
    lengths = random.geometric(1 / 200, 300)
    ended = np.sort(lengths[lengths <= 150])
    running = np.full(len(lengths) - len(ended), 150)
    corrected = Survival.of(ended, running)
    for at in (50, 100, 140):
        true = np.mean(lengths > at)
        assert corrected.share[np.searchsorted(ended, at, side="right")] == pytest.approx(true)
        assert np.mean(ended > at) < true - 0.1, "as those that have ended would have it"
