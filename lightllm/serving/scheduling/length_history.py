"""Predicts that outputs will be as long as the last ones were, and those of requests alike as those of their like.

Requests are alike if their prompts are about as long, and so is what they may generate. Of an output that has n
tokens already, only those are asked that became longer than n; of those that have not ended it is known that they did.
Where the newest differ from those before them, only these are asked.
"""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.drift import newest_alike
from lightllm.serving.scheduling.lengths import Outputs
from lightllm.serving.scheduling.peak_memory import Counts
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.survival import Survival

# Ended requests without which a prediction would be a guess: as long as fewer are known in all, what a careful guess
# would be stands in for those that lack. Starting cold, sharegpt_o1 reaches 6,200 tokens/s in simulation with 64 of
# them, 7,100 with 32, 7,500 with 16 and with 8; where outputs are of geometric length, fewer set more of them back.
# A class that has fewer than 64 is not told apart.
_FEW, _ENOUGH = 16, 64
_NOT_GIVEN = 64  # in place of the logarithm of a maximum that nobody has stated
_ALL = -1
# What is known of those that run is looked at again when they have grown by this share.
_GROWTH = 1 / 64
_MIDDLES = (np.arange(32)[:, None] + 0.5) / 32


class LengthHistory:
    """The last `prediction_window` outputs that ended by themselves or at their maximum."""

    def __init__(self, config: EngineConfig):
        window = config.prediction_window
        self._lengths, self._class = np.zeros(window, dtype=np.int64), np.zeros(window, dtype=np.int64)
        self._order = np.zeros(window, dtype=np.int64)
        self._is_cut = np.zeros(window, dtype=np.bool_)  # at its maximum: by itself it would have become longer
        self._num_seen, self._expected = 0, config.router_max_new_token_len
        # Derived from these, and renewed as they change: who is told apart, and how long outputs of each class go on.
        self._classes: Counts | None = None
        self._survival: dict[int, Survival] = {}
        self._produced = 0

    @property
    def num_observed(self) -> int:
        return min(self._num_seen, len(self._lengths))

    def observe(self, request: Request, num_output: int) -> None:
        if not request.can_stop:
            return  # says nothing about others
        at = self._num_seen % len(self._lengths)
        self._lengths[at], self._is_cut[at] = num_output, num_output >= request.max_tokens
        self._order[at] = request.order
        self._class[at] = _class(request.prompt_length, request.max_tokens, request.max_tokens_given)
        self._num_seen += 1
        self._classes, self._survival = None, {}

    def draw(self, outputs: Outputs, quantiles: NDArray[np.float64]) -> Counts:
        produced = int(outputs.produced.sum())
        if abs(produced - self._produced) > _GROWTH * self._produced:
            self._produced, self._survival = produced, {}
        return self._draw(outputs, quantiles)

    def expected_output(self, request: Request) -> int:
        if not request.can_stop:
            return request.max_tokens
        return round(float(self._draw(Outputs.of_request(request), _MIDDLES).mean()))

    def _draw(self, outputs: Outputs, quantiles: NDArray[np.float64]) -> Counts:
        of = self._told_apart(_class(outputs.prompt_length, outputs.max_tokens, outputs.max_tokens_given))
        lengths = np.empty(quantiles.shape)
        for name in np.unique(of).tolist():
            alike = np.flatnonzero(of == name)
            if name not in self._survival:
                counts = outputs.can_stop & ((of == name) | (name == _ALL)) & (outputs.produced > 0)
                self._survival[name] = self._survival_of(name, outputs.order[counts], outputs.produced[counts])
            least, most = outputs.least[alike], outputs.max_tokens[alike]
            lengths[:, alike] = self._survival[name].draw(least, most, quantiles.take(alike, axis=1))
        if self.num_observed < _FEW:
            careful = np.clip(self._careful(outputs), outputs.least, outputs.max_tokens)
            lengths = np.where(quantiles < self.num_observed / _FEW, lengths, careful)
        return lengths.astype(np.int64)

    def _careful(self, outputs: Outputs) -> NDArray[np.float64]:
        """What is expected where nothing is known; of what has nearly reached that, that it goes on for a while."""
        expected = np.maximum(np.ceil(1.1 * outputs.least), self._expected)
        return np.where(outputs.max_tokens_given, outputs.max_tokens, expected)

    def _told_apart(self, classes: Counts) -> Counts:
        """The class of each, or _ALL where too few of its class are known."""
        if self._classes is None:
            names, counts = np.unique(self._class[: self.num_observed], return_counts=True)
            self._classes = names[counts >= _ENOUGH]
        return np.where(np.isin(classes, self._classes), classes, _ALL)

    def _survival_of(self, name: int, running_order: Counts, produced: Counts) -> Survival:
        """Of the known outputs of this class, and of those that run with so many tokens produced."""
        known = np.flatnonzero((self._class[: self.num_observed] == name) | (name == _ALL))
        lengths = np.concatenate([self._lengths[known], produced])
        has_ended = np.concatenate([~self._is_cut[known], np.zeros(len(produced), dtype=np.bool_)])
        alike = newest_alike(np.concatenate([self._order[known], running_order]), lengths, has_ended)
        return Survival.of(np.sort(lengths[alike & has_ended]), lengths[alike & ~has_ended])


def _class(prompt_length: Counts | int, max_tokens: Counts | int, max_tokens_given: NDArray[np.bool_] | bool) -> Counts:
    """A number for requests alike: prompts within a factor of four, maxima within a factor of two, if stated at all."""
    prompt = np.log2(np.maximum(prompt_length, 1)).astype(np.int64) // 2
    most = np.where(max_tokens_given, np.log2(np.maximum(max_tokens, 1)).astype(np.int64), _NOT_GIVEN)
    return prompt * 128 + most
