"""A step on its way: launched, and read when the device has computed it."""

import time

import numpy as np

from lightllm.base.step import StepPlan, StepResult
from lightllm.compute.transfers import Download

_NO_LOGPROBS = np.zeros(0, np.float32), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)


class Stopwatch:
    """Seconds of steps that are launched while the one before still runs: each counts from that one's end."""

    def __init__(self):
        self._end = 0.0

    def lap(self, started: float) -> float:
        """What a step took that was launched at `started` (time.perf_counter) and has just ended."""
        began, self._end = max(started, self._end), time.perf_counter()
        return self._end - began


class Launched:
    """What the sequences `which` of a plan sample, and those at `logprobs_of` their log-probabilities; after these,
    if `has_scores`, those of the plan's successors, or if `has_vectors` these."""

    def __init__(
        self,
        plan: StepPlan,
        download: Download,
        *,
        which: np.ndarray,
        logprobs_of: np.ndarray | None,
        has_scores: bool = False,
        has_vectors: bool = False,
        started: float,
        stopwatch: Stopwatch,
    ):
        # Laid out while the device computes.
        self._result = StepResult(
            plan.step, np.full(len(plan.rows), -1, np.int32), *_NO_LOGPROBS, seconds=0.0, next_was_ready=False
        )
        self._download = download
        self._which, self._logprobs_of, self._has_scores = which, logprobs_of, has_scores
        self._has_vectors = has_vectors
        self._started, self._stopwatch = started, stopwatch

    def is_ready(self) -> bool:
        """Whether `result` would not wait."""
        return self._download.is_there()

    def result(self) -> StepResult:
        """Waits for the device. `next_was_ready` is for the caller to say."""
        result, arrays = self._result, self._download.arrays()
        count = len(result.tokens)
        if self._has_scores:
            *arrays, result.scores, top_tokens, result.score_top_logprobs = arrays
            result.score_top_tokens = top_tokens.astype(np.int32)
        if self._has_vectors:
            result.vectors = _spread(arrays.pop(), self._which, count)
        if arrays:
            result.tokens[self._which], *fetched = arrays
            if self._logprobs_of is not None:
                places = self._which[self._logprobs_of]
                known = [_spread(values, places, count) for values in fetched]
                result.logprobs, result.top_tokens, result.top_logprobs = known
        result.seconds = self._stopwatch.lap(self._started)
        return result


def _spread(values: np.ndarray, which: np.ndarray, count: int) -> np.ndarray:
    """values [n, ...] at places `which` of [count, ...], zeros elsewhere; 32-bit."""
    out = np.zeros((count, *values.shape[1:]), np.int32 if values.dtype.kind == "i" else np.float32)
    out[which] = values
    return out
