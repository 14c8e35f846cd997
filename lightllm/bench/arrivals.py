"""When requests are sent."""

import math

import numpy as np


def offsets(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start to each of `count` requests, ascending; all zero at an infinite rate.

    Gaps are drawn from a gamma distribution of mean 1 / rate and shape `burstiness`, then scaled so that the last
    request goes at count / rate: the rate is exactly the one asked for, whatever was drawn.
    """
    if math.isinf(rate):
        return [0.0] * count
    times = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), count).cumsum()
    return (times * (count / rate / times[-1])).tolist()
