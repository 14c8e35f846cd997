"""The steps whose results are outstanding, and for whom these results are."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from lightllm.base.step import StepPlan, StepResult
from lightllm.serving.scheduling.rows import Rows


@dataclass(frozen=True, slots=True)
class _Flight:
    step: int
    rows: np.ndarray  # [sequences]
    epochs: np.ndarray  # of these rows when the step was planned
    samples: np.ndarray
    scores: np.ndarray | None  # [sequences]: tokens of each that are scored; None: none of any


@dataclass(frozen=True, slots=True)
class Landed:
    """What of a result is for requests that still run. What a row got that has changed hands since is nobody's."""

    positions: np.ndarray  # [n]: places in the result of what was sampled
    rows: np.ndarray  # [n]: for whom
    scores: list[tuple[int, slice]]  # row, and which of the result's scores are its


class Flights:
    """In the order of the plans, which is that of the results."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self._flights: deque[_Flight] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, plan: StepPlan) -> None:
        scores = None
        if len(plan.scored):
            of_whom = np.searchsorted(np.cumsum(plan.counts), plan.scored, side="right")
            scores = np.bincount(of_whom, minlength=len(plan.rows))
        self._flights.append(_Flight(plan.step, plan.rows, self._rows.epoch[plan.rows], plan.samples, scores))

    def land(self, result: StepResult) -> Landed:
        """Takes in the result of the oldest step."""
        due = self._flights[0].step if self._flights else None
        assert result.step == due, "each result comes once, in the order of the plans"
        flight = self._flights.popleft()
        is_theirs = self._rows.epoch[flight.rows] == flight.epochs
        positions = (flight.samples & is_theirs).nonzero()[0]
        scores = [] if flight.scores is None else _runs(flight.rows, flight.scores, is_theirs)
        return Landed(positions, flight.rows[positions], scores)

    def await_anything(self, row: int) -> bool:
        """Whether an outstanding step samples or scores for the request that has this row."""
        epoch = self._rows.epoch[row]
        return any((_awaits(f) & (f.rows == row) & (f.epochs == epoch)).any() for f in self._flights)


def _awaits(flight: _Flight) -> np.ndarray:
    return flight.samples if flight.scores is None else flight.samples | (flight.scores > 0)


def _runs(rows: np.ndarray, scores: np.ndarray, are_wanted: np.ndarray) -> list[tuple[int, slice]]:
    """Where the scores of each row lie, one row's after another's; of those that are wanted and have any."""
    ends = np.cumsum(scores)
    return [
        (int(rows[at]), slice(int(ends[at] - scores[at]), int(ends[at])))
        for at in np.flatnonzero(are_wanted & (scores > 0))
    ]
