"""Admits while what is predicted for the future from lengths of the past fits.

How long requests will run is drawn many times over. In each draw the peak of all together is known (peak_memory); a
chosen quantile of these peaks has to fit the pool. The numbers behind a request's draws are its own for as long as it
is known: to ask again is no new lottery, in which sooner or later a lucky draw would let too many in.

Source: arXiv:2507.10150, which draws anew each time, at most five times, and keeps a share of the pool in reserve.
"""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.lengths import LengthPredictor, Outputs
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


class PastFuture:
    """Peaks of drawn lengths, by any predictor."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int, limits: StepLimits, predictor: LengthPredictor):
        self.allowed, self._limits, self._predictor = pool_tokens, limits, predictor
        self._quantiles = Quantiles(limits.rows, config.prediction_samples)
        # The lowest peak that this share of all draws does not exceed.
        self._which = int(np.ceil(config.prediction_quantile * config.prediction_samples)) - 1

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        holdings = Holdings.of(running, self._limits, candidate=candidate, next_tokens=next_tokens)
        rows, taking_part = running.rows, holdings.rows
        outputs = Outputs.of(rows, taking_part, running.num_output(taking_part))
        drawn = self._predictor.draw(outputs, self._quantiles.of(taking_part, rows.order))
        output = np.where(rows.can_stop[taking_part], drawn, rows.max_tokens[taking_part])
        return int(np.partition(holdings.peaks(holdings.growth(rows, output)), self._which)[self._which])


class Quantiles:
    """For each row, `samples` numbers that depend only on which request has it.

    One lies in each of `samples` equal parts of [0, 1), so that every request's draws cover its distribution; which of
    them meets which of another request's is as good as random.
    """

    def __init__(self, rows: int, samples: int):
        self._samples = samples
        self._order = np.full(rows, -1, dtype=np.int64)
        self._numbers = np.zeros((samples, rows))

    def of(self, rows: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of `rows` [n], where order[row] says whose it is: [samples, n]."""
        for row in rows[self._order[rows] != order[rows]].tolist():
            self._order[row] = order[row]
            draw = np.random.Generator(np.random.Philox(key=int(order[row])))
            parts = draw.permutation(self._samples) + draw.random(self._samples)
            self._numbers[:, row] = parts / self._samples
        return self._numbers[:, rows]
