"""Predicts that outputs will be as long as the last ones were.

Of an output that has n tokens already, only those are asked that became longer than n.
"""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.lengths import Counts, Outputs
from lightllm.serving.scheduling.request import Request

# Ended requests without which a prediction would be a guess: as long as fewer are known, what a careful guess would be
# stands in for those that lack.
_ENOUGH = 64


class LengthHistory:
    """The lengths of the last `prediction_window` outputs that ended by themselves."""

    def __init__(self, config: EngineConfig):
        self._lengths = np.zeros(config.prediction_window, dtype=np.int64)
        self._num_seen, self._expected = 0, config.router_max_new_token_len
        self._sorted: Counts | None = None

    @property
    def num_observed(self) -> int:
        return min(self._num_seen, len(self._lengths))

    def observe(self, request: Request, num_output: int) -> None:
        if not request.can_stop:
            return  # says nothing about others
        self._lengths[self._num_seen % len(self._lengths)] = num_output
        self._num_seen += 1
        self._sorted = None

    def draw(self, outputs: Outputs, quantiles: NDArray[np.float64]) -> Counts:
        lengths = self._known()
        # Of those that became as long as each output will be at least, plus one that stands for lengths never seen.
        first = np.searchsorted(lengths, outputs.least)
        known, lacking = len(lengths) - first, max(0, _ENOUGH - len(lengths))
        at = quantiles * (known + 1 + lacking)
        drawn = lengths[np.minimum(first + at.astype(np.int64), len(lengths) - 1)] if len(lengths) else 0
        longest = np.maximum(outputs.least, lengths[-1] if len(lengths) else 1)
        unseen = longest * (np.maximum(outputs.max_tokens, longest) / longest) ** np.clip(at - known, 0, 1)
        output = np.where(at < known, drawn, np.where(at < known + 1, unseen, self._careful(outputs)))
        return np.clip(output, outputs.least, outputs.max_tokens).astype(np.int64)

    def expected_output(self, request: Request) -> int:
        if not request.can_stop:
            return request.max_tokens
        lengths, careful = self._known(), self._expected
        if request.max_tokens_given:
            careful = request.max_tokens
        lacking = max(0, _ENOUGH - len(lengths))
        total = np.minimum(lengths, request.max_tokens).sum() + lacking * min(careful, request.max_tokens)
        return round(total / (len(lengths) + lacking))

    def _careful(self, outputs: Outputs) -> Counts:
        """What is expected where nothing is known; of what has nearly reached that, that it goes on for a while."""
        expected = np.maximum(np.ceil(1.1 * outputs.least), self._expected)
        return np.where(outputs.max_tokens_given, outputs.max_tokens, expected)

    def _known(self) -> Counts:
        if self._sorted is None:
            self._sorted = np.sort(self._lengths[: self.num_observed])
        return self._sorted
