"""Which of the requests that may give way does: one interface, and the ways to choose that --preemption names."""

from typing import Protocol

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.peak_memory import Counts
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


class Victims(Protocol):
    """The seam: another way to choose is another class."""

    def choose(self, candidates: Counts, lacking: int) -> int:
        """One of the rows `candidates` [n >= 1], where the next step lacks so many slots."""
        ...


class Cheapest:
    """The least to compute again for what has to be given free.

    What others do not share of a request is what it gives free, and what may have to be computed again. So the victim
    is

    * one that has been preempted before, whose client has already been kept waiting, before any other;
    * one that gives free as much as the peak is predicted to exceed the pool by, lest others have to follow it;
    * of these the one that has the least to compute again. If none is enough by itself, the one that gives most.
    """

    def __init__(self, running: Running, limits: StepLimits, forecast: Forecast):
        self._running, self._limits, self._forecast = running, limits, forecast

    def choose(self, candidates: Counts, lacking: int) -> int:
        rows, pool = self._running.rows, self._running.pool
        holdings = Holdings.of(self._running, self._limits)
        lacking = max(lacking, int(np.median(self._forecast.peaks(self._running, holdings))) - pool.pool_tokens)
        may = np.isin(holdings.rows, candidates)
        which, freed = holdings.rows[may], holdings.held[may]
        is_enough = freed >= lacking
        # The last key counts first; where all are the same, the latest gives way.
        costs = (-rows.order[which], np.where(is_enough, freed, -freed), ~is_enough, rows.num_preemptions[which] == 0)
        return int(which[np.lexsort(costs)[0]])


class Latest:
    """The one that came last, as is usual elsewhere: what published schedulers are compared with does so."""

    def __init__(self, running: Running):
        self._rows = running.rows

    def choose(self, candidates: Counts, lacking: int) -> int:
        return int(candidates[np.argmax(self._rows.order[candidates])])


def victims(config: EngineConfig, running: Running, limits: StepLimits, forecast: Forecast) -> Victims:
    """The way to choose that --preemption names."""
    return Latest(running) if config.preemption == "latest" else Cheapest(running, limits, forecast)
