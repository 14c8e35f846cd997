"""How long a request will wait: the work before it, over the rate at which work was admitted while there was a backlog.

Work is tokens, of prompt and expected output. What this overlooks (how admissions bunch, how long the prompt takes once
it runs) is the same tomorrow as today, so it is learned: predictions are multiplied by a factor that keeps nine in ten
first tokens earlier than was predicted.
"""

import math

# What was measured weighs 1/e after so many seconds of backlog, or after so many admissions if they take longer.
_MEMORY_S, _MEMORY_ADMISSIONS = 30.0, 16
_FEWEST = 8  # admissions out of a backlog before anything is predicted
_QUANTILE = 0.9
_LEARNING = 0.1  # in logarithm of the factor, for each first token
_LARGEST_FACTOR = 4.0
_SHORTEST_S = 0.01  # waits below this teach nothing


class WaitPrediction:
    """Deterministic: every time is given. Seconds."""

    def __init__(self) -> None:
        # Out of a backlog: work and requests admitted, and for how long there was one; all three fading.
        self._work = self._admissions = self._seconds = 0.0
        self._planned: float | None = None  # when the last step was planned, if it left a backlog
        self._running = self._running_when_full = 0  # work admitted and not ended: now, and at the last backlog
        self._log_factor = 0.0

    @property
    def has_backlog(self) -> bool:
        """Whether the last step that was planned left anyone waiting."""
        return self._planned is not None

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to predict anything."""
        return self._admissions >= _FEWEST

    def note_admission(self, work: int) -> None:
        """A request begins. It has a place until its end, also while it is preempted."""
        self._running += work
        if self._planned is not None:
            self._work += work
            self._admissions += 1

    def note_end(self, work: int) -> None:
        """A request that had begun has ended."""
        self._running -= work

    def note_plan(self, now: float, *, has_backlog: bool) -> None:
        """A step was planned, and left some requests waiting or none."""
        if self._planned is not None:
            self._fade(now - self._planned)
        self._planned = now if has_backlog else None
        if has_backlog:
            self._running_when_full = self._running

    def note_first_token(self, *, predicted: float, actual: float) -> None:
        """Seconds from a request's coming to its first token, as predicted (NaN: was not), and as they were."""
        if predicted > _SHORTEST_S:
            self._log_factor += _LEARNING * (_QUANTILE if actual > predicted else _QUANTILE - 1)
            self._log_factor = min(max(self._log_factor, 0.0), math.log(_LARGEST_FACTOR))

    def seconds(self, work_before: int) -> float:
        """Until a request has its first token before which so much work waits; NaN while too little was seen to say."""
        if not work_before:
            return 0.0
        if not self.is_known:
            return math.nan
        if self._planned is None:  # there is room, and what waits came after the last step was planned
            work_before -= self._running_when_full - self._running
            if work_before <= 0:
                return 0.0
        # Those before it are admitted, and then it is: one admission more.
        expected = work_before * self._seconds / self._work + self._seconds / self._admissions
        return math.exp(self._log_factor) * expected

    def _fade(self, seconds: float) -> None:
        """There was a backlog for so many more seconds."""
        self._seconds += seconds
        memory = max(_MEMORY_S, _MEMORY_ADMISSIONS * self._seconds / max(1.0, self._admissions))
        fading = math.exp(-seconds / memory)
        self._work, self._admissions, self._seconds = (
            self._work * fading,
            self._admissions * fading,
            self._seconds * fading,
        )
