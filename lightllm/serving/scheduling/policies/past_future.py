"""Admits while the peak that is predicted for the future from the lengths of the past fits.

Of many possible peaks (forecast.py) the one that a chosen share of them does not exceed has to fit the pool. How large
a share is learned: each preemption raises it, each end lowers it, so that in the long run as many requests are
preempted as may be.

Sources: arXiv:2507.10150, which draws anew each time it asks, at most five times, and keeps a share of the pool free;
for learning the share I. Gibbs, E. Candes, Adaptive conformal inference under distribution shift, 2021.
"""

import math

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running

_LEAST_SHARE = 0.9
_LEARNING_RATE = 0.02  # what a preemption raises the share by: about one of 64 peaks


class PastFuture:
    """Needs no tuning to the workload: it learns the lengths, and how much they vary, from what has ended."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int, limits: StepLimits, forecast: Forecast):
        self.allowed, self._limits, self._forecast = pool_tokens, limits, forecast
        self._share, self._samples = config.prediction_quantile, config.prediction_samples
        self._least, self._target = min(_LEAST_SHARE, self._share), config.preemption_target

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        holdings = Holdings.of(running, self._limits, candidate=candidate, next_tokens=next_tokens)
        which = math.ceil(self._share * self._samples) - 1
        return int(np.partition(self._forecast.peaks(running, holdings), which)[which])

    def note_preemption(self) -> None:
        self._learn(_LEARNING_RATE)

    def note_end(self) -> None:
        self._learn(-_LEARNING_RATE * self._target)

    def _learn(self, change: float) -> None:
        self._share = min(1.0, max(self._least, self._share + change))
