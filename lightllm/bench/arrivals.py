"""When requests are sent."""

import math

import numpy as np

from lightllm.base.errors import ConfigError


def offsets(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start to each of `count` requests, ascending; all zero at an infinite rate.

    Gaps are drawn from a gamma distribution of mean 1 / rate and shape `burstiness`, then scaled so that the last
    request goes at count / rate: the rate is exactly the one asked for, whatever was drawn. Raises ConfigError for a
    burstiness without a rate.
    """
    if math.isinf(rate):
        if burstiness != 1.0:
            raise ConfigError(f"--burstiness={burstiness:g} is about gaps between requests; give --request_rate, too")
        return [0.0] * count
    times = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), count).cumsum()
    return (times * (count / rate / times[-1])).tolist()
