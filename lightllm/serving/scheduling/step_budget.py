"""How many tokens a step may run so that requests which decode get their next token in time.

What a step takes is learned from the steps that ran: seconds = a + b * prompt tokens + c * decodes, by least squares in
which old steps fade. The target then says how many prompt tokens fit beside the decodes.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from lightllm.serving.scheduling.plan import StepLimits

_FADING = 0.995  # each step weighs this much less than the one after it
_SCALE = np.array([1.0, 1e-3, 1e-2])  # of the features, so that all three are about 1
_RIDGE = 1e-6  # decides where steps were too much alike to tell the three costs apart: the smallest ones
_FEWEST = 16  # steps before anything is said
_LEAST_COST = 1e-9  # s, of a prompt token


@dataclass(frozen=True, slots=True)
class _Planned:
    at: float
    features: np.ndarray  # [3]: one, prompt tokens, decodes; scaled


class StepBudget:
    """Deterministic: every time is given. Without a target a step may be as large as the configuration allows."""

    def __init__(self, limits: StepLimits, *, target_s: float | None):
        self._limits, self._target_s = limits, target_s
        self._planned: deque[_Planned] = deque()
        self._last_result = 0.0
        # Normal equations of the regression: sums of features x features and features x seconds.
        self._products, self._sums = np.zeros((3, 3)), np.zeros(3)
        self._num_steps = 0

    def tokens(self, decodes: int) -> int:
        """Tokens of the next step, if it runs so many decodes; these are never kept back."""
        most = self._limits.tokens
        if self._target_s is None or self._num_steps < _FEWEST:
            return most
        always, prompt_token, decode = self.costs()
        fitting = (self._target_s - always - decode * decodes) / max(prompt_token, _LEAST_COST)
        # However slow the step, prompts go on.
        return min(most, decodes + max(self._limits.prompt_tokens, int(min(fitting, most))))

    def costs(self) -> np.ndarray:
        """Seconds [3]: of any step, of a prompt token, of a decode."""
        weights = self._products + _RIDGE * np.trace(self._products) * np.eye(3)
        return np.maximum(np.linalg.solve(weights, self._sums), 0.0) * _SCALE

    def note_plan(self, now: float, *, prompt_tokens: int, decodes: int) -> None:
        if self._target_s is not None:
            self._planned.append(_Planned(now, _SCALE * (1, prompt_tokens, decodes)))

    def note_result(self, now: float) -> None:
        """The oldest planned step is done: it began when it was planned, or when the one before it was done."""
        if self._target_s is None:
            return
        step = self._planned.popleft()
        seconds = now - max(step.at, self._last_result)
        self._last_result = now
        self._products = self._products * _FADING + np.outer(step.features, step.features)
        self._sums = self._sums * _FADING + seconds * step.features
        self._num_steps += 1
