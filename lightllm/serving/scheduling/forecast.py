"""The peak of all that runs, not as one number but as it would be in each of many possible futures.

How long requests will run is drawn many times over, and in each draw the peak of all together is known (peak_memory).
The numbers behind a request's draws are its own for as long as it is known: to ask again is no new lottery, in which
sooner or later a lucky draw would let too many in.
"""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.lengths import LengthPredictor, Outputs
from lightllm.serving.scheduling.peak_memory import Counts
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


class Forecast:
    """Joins what is held with what a predictor says of lengths."""

    def __init__(self, config: EngineConfig, limits: StepLimits, predictor: LengthPredictor):
        self._limits, self._predictor = limits, predictor
        self._quantiles = Quantiles(limits.rows, config.prediction_samples)

    def peaks(self, running: Running, holdings: Holdings) -> Counts:
        """Slots that the requests of `holdings` need at most, in each of the possible futures: [samples]."""
        rows, which = running.rows, holdings.rows
        outputs = Outputs.of(rows, which, running.num_output(which))
        drawn = self._predictor.draw(outputs, self._quantiles.of(which, rows.order[which]))
        output = np.where(rows.can_stop[which], drawn, rows.max_tokens[which])
        return holdings.peaks(holdings.growth(rows, output))


class Quantiles:
    """For each row, `samples` numbers that depend only on which request has it.

    One lies in each of `samples` equal parts of [0, 1), so that every request's draws cover its distribution; which of
    them meets which of another request's is as good as random.
    """

    def __init__(self, rows: int, samples: int):
        self._samples = samples
        self._order = np.full(rows, -1, dtype=np.int64)
        self._numbers = np.zeros((samples, rows))

    def of(self, rows: Counts, order: Counts) -> NDArray[np.float64]:
        """Of `rows` [n], which requests number `order` [n] have: [samples, n]."""
        for row, number in zip(*(part[self._order[rows] != order].tolist() for part in (rows, order)), strict=True):
            draw = np.random.Generator(np.random.Philox(key=number))
            parts = draw.permutation(self._samples) + draw.random(self._samples)
            self._order[row], self._numbers[:, row] = number, parts / self._samples
        return self._numbers.take(rows, axis=1)
