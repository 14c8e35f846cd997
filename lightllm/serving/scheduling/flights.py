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


class Flights:
    """In the order of the plans, which is that of the results."""

    def __init__(self, rows: Rows):
        self._rows = rows
        self._flights: deque[_Flight] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, plan: StepPlan) -> None:
        self._flights.append(_Flight(plan.step, plan.rows, self._rows.epoch[plan.rows], plan.samples))

    def land(self, result: StepResult) -> tuple[np.ndarray, np.ndarray]:
        """Which positions of the result are tokens of requests that still run, and their rows: [n], [n].

        What was sampled for a row that has changed hands since is nobody's: a wasted row.
        """
        due = self._flights[0].step if self._flights else None
        assert result.step == due, "each result comes once, in the order of the plans"
        flight = self._flights.popleft()
        positions = np.flatnonzero(flight.samples & (self._rows.epoch[flight.rows] == flight.epochs))
        return positions, flight.rows[positions]

    def await_token(self, row: int) -> bool:
        """Whether an outstanding step samples for the request that has this row."""
        epoch = self._rows.epoch[row]
        return any((f.samples & (f.rows == row) & (f.epochs == epoch)).any() for f in self._flights)
