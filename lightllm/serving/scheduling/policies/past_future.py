"""Admits while the peak that is predicted for the future from the lengths of the past fits.

Of many possible peaks (forecast.py) the one that a chosen share of them does not exceed has to fit the pool.

Source: arXiv:2507.10150, which draws anew each time it asks, at most five times, and keeps a share of the pool free.
"""

import math

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


class PastFuture:
    """Needs no tuning to the workload: it learns the lengths, and how much they vary, from what has ended."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int, limits: StepLimits, forecast: Forecast):
        self.allowed, self._limits, self._forecast = pool_tokens, limits, forecast
        self._which = math.ceil(config.prediction_quantile * config.prediction_samples) - 1

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        holdings = Holdings.of(running, self._limits, candidate=candidate, next_tokens=next_tokens)
        return int(np.partition(self._forecast.peaks(running, holdings), self._which)[self._which])
