"""Runs the server's own scheduler on a trace, with a clock that a cost model moves and a worker that computes nothing.

The loop is that of processes/scheduler.py: while a step runs, the next one is planned.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.step import StepPlan, StepResult
from lightllm.serving.scheduling.length_history import LengthHistory
from lightllm.serving.scheduling.peak_memory import peak_tokens
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.simulation.clients import Arrivals, Clients, Service, Targets
from lightllm.simulation.cost import StepCost
from lightllm.simulation.trace import Trace
from lightllm.simulation.worker import PretendedWorker

_MOST_OUTSTANDING = 2  # as the scheduler's process
_RECORDS = 8192  # requests open at a time
# The clock begins here: in the request table a time of zero means that something has not happened.
_START_S = 1.0


@dataclass(frozen=True)
class Steps:
    """By step: when it ended (s), its seconds, sequences, and slots in use after it was planned; then by admission:
    the step, the peak that was predicted then, and the peak if nothing more had been admitted."""

    end: NDArray[np.float64]
    seconds: NDArray[np.float64]
    sequences: NDArray[np.int64]
    used: NDArray[np.int64]
    admitted_at: NDArray[np.int64]
    predicted_peak: NDArray[np.int64]
    actual_peak: NDArray[np.int64]


def simulate(
    trace: Trace,
    arrivals: Arrivals,
    config: EngineConfig,
    *,
    pool_tokens: int,
    cost: StepCost,
    targets: Targets,
    past: Trace | None = None,
) -> tuple[Service, Steps]:
    """Until the last request of the trace has come; those of `past` have been answered before, so that the scheduler
    knows how long their outputs were. Raises ConfigError if the pool cannot hold a request of the trace."""
    if trace.longest > pool_tokens + 1:
        raise ConfigError(
            f"trace {trace.name} has requests of up to {trace.longest} tokens, the pool has {pool_tokens}; "
            "give more --pool_tokens"
        )
    simulation = Simulation(trace, arrivals, config, pool_tokens=pool_tokens, cost=cost, targets=targets)
    if past is not None:
        simulation.remember(past)
    simulation.run()
    return simulation.clients.service, simulation.log.steps()


class Simulation:
    """`clients`, the scheduler, and a device that is busy until `_device_free`."""

    def __init__(
        self,
        trace: Trace,
        arrivals: Arrivals,
        config: EngineConfig,
        *,
        pool_tokens: int,
        cost: StepCost,
        targets: Targets,
    ):
        self._cost, self._now, self._device_free = cost, 0.0, 0.0
        self._results: deque[tuple[float, StepResult]] = deque()  # when its step ends
        shape = TableShape.of(clients=1, records=_RECORDS, max_length=trace.longest)
        requests, metrics = RequestTable.create(shape), Metrics.create(1)
        table, self._metrics = RequestTable(requests, shape), Metrics(metrics, 0)
        for memory in (requests, metrics):
            memory.close()
        self._predictor = LengthHistory(config)
        self._scheduler = Scheduler(
            config,
            table,
            pool_tokens=pool_tokens,
            max_length=trace.longest,
            metrics=self._metrics,
            predictor=self._predictor,
            clock=lambda: _START_S + self._now,
        )
        self._worker = PretendedWorker(trace, rows=config.running_max_req_size)
        self.clients = Clients(trace, arrivals, targets, table, self._scheduler)
        self.log = _Log()

    def remember(self, past: Trace) -> None:
        for request, output in self.clients.asked_before(past):
            self._predictor.observe(request, output)

    def run(self) -> None:
        while not self.clients.are_done:
            self.clients.act(self._now)
            self._launch()
            self._report()
            self._now = self._next_time()
            if self._results and self._results[0][0] <= self._now:
                self._scheduler.digest(self._results.popleft()[1])
                self._report()

    def _launch(self) -> None:
        while self._scheduler.num_outstanding < _MOST_OUTSTANDING and (plan := self._scheduler.plan()) is not None:
            seconds = self._cost.seconds(plan)
            self._device_free = max(self._now, self._device_free) + seconds
            self._results.append((self._device_free, self._worker.run(plan)))
            self._note(plan, seconds)

    def _report(self) -> None:
        if (progress := self._scheduler.drain()) is not None and progress.progressed:
            self.clients.hear(progress.progressed, self._now)

    def _next_time(self) -> float:
        """When the oldest step ends; or when a client acts, if there is room for another step."""
        if len(self._results) == _MOST_OUTSTANDING:
            return self._results[0][0]
        ends = self._results[0][0] if self._results else float("inf")
        return max(self._now, min(ends, self.clients.next_time))

    def _note(self, plan: StepPlan, seconds: float) -> None:
        self.log.add_step(self._device_free, seconds, len(plan.rows), int(self._metrics.total("kv_slots_used")))
        if len(plan.begins):
            held, remaining = self._worker.remaining(plan)
            actual = peak_tokens(held, remaining)
            self.log.add_admission(int(self._metrics.total("kv_slots_predicted_peak")), actual)


class _Log:
    """Grows by a step at a time."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, float, int, int]] = []
        self._admissions: list[tuple[int, int, int]] = []

    def add_step(self, end: float, seconds: float, sequences: int, used: int) -> None:
        self._steps.append((end, seconds, sequences, used))

    def add_admission(self, predicted: int, actual: int) -> None:
        self._admissions.append((len(self._steps) - 1, predicted, actual))

    def steps(self) -> Steps:
        steps = np.array(self._steps, dtype=np.float64).reshape(-1, 4).T
        admissions = np.array(self._admissions, dtype=np.int64).reshape(-1, 3).T
        return Steps(steps[0], steps[1], steps[2].astype(np.int64), steps[3].astype(np.int64), *admissions)
