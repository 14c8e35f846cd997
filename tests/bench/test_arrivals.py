import numpy as np
import pytest

from lightllm.bench.arrivals import offsets


def test_an_infinite_rate_sends_all_at_once():
    assert offsets(3, float("inf"), 1.0, 0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_the_rate_is_exact_and_the_gaps_vary_as_the_gamma_distribution_says(burstiness):
    times = np.array(offsets(20_000, 8.0, burstiness, 0))
    gaps = np.diff(times)
    assert times[-1] == pytest.approx(20_000 / 8)
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
