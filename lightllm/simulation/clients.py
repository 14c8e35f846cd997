"""The clients of a simulated server: when they ask, what they wait for, and how they were served."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightllm.base.errors import ConfigError
from lightllm.base.messages import parse_references
from lightllm.base.request import FinishReason, SamplingParams
from lightllm.base.request_table import RequestTable
from lightllm.serving.records import Records, Request
from lightllm.serving.scheduling import request as scheduling
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.simulation.trace import Trace
from lightllm.simulation.worker import EOS

_NEVER = float("inf")
_GAP_EDGES = np.geomspace(1e-3, 1e3, 1201)  # s; gaps are counted between these, 1.2 % apart


@dataclass(frozen=True)
class Targets:
    """What a request must get to count as served well; seconds."""

    ttft_s: float = 10.0
    gap_s: float = 1.5  # longest time between two tokens
    patience_s: float = 8.0  # a client whose request has not begun by then takes it back


@dataclass(frozen=True)
class Arrivals:
    """Request i comes at times[i]; or, if there are no times, each of `clients` asks again once it is answered."""

    times: NDArray[np.float64] | None = None
    clients: int = 0


@dataclass
class Service:
    """What became of each request of the trace [n]; times in seconds, nan where there was none."""

    submitted: NDArray[np.float64]
    first_token: NDArray[np.float64]
    ended: NDArray[np.float64]
    largest_gap: NDArray[np.float64]
    output: NDArray[np.int64]  # tokens received
    preemptions: NDArray[np.int64]
    reason: NDArray[np.int64]  # FinishReason
    gap_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_GAP_EDGES) + 1, dtype=np.int64))

    @classmethod
    def of(cls, count: int) -> "Service":
        never, none = np.full(count, np.nan), np.zeros(count, dtype=np.int64)
        return cls(never.copy(), never.copy(), never.copy(), np.zeros(count), none.copy(), none.copy(), none.copy())

    def gap_percentile(self, percent: float) -> float:
        """Of all times between two tokens of a request; seconds."""
        reached = np.cumsum(self.gap_counts)
        at = int(np.searchsorted(reached, percent / 100 * reached[-1]))
        return float(_GAP_EDGES[min(at, len(_GAP_EDGES) - 1)])


class Clients:
    """Fills the request table as the server's api processes do, and reads it as they do."""

    def __init__(self, trace: Trace, arrivals: Arrivals, targets: Targets, table: RequestTable, scheduler: Scheduler):
        self.service = Service.of(len(trace))
        self._trace, self._arrivals, self._targets = trace, arrivals, targets
        self._table, self._scheduler = table, scheduler
        self._records, self._fields = Records(table, 0), table.records
        self._requests: dict[int, Request] = {}  # by index of the record
        records = len(table.records)
        self._number = np.zeros(records, dtype=np.int64)
        self._seen, self._last = np.zeros(records, dtype=np.int64), np.zeros(records)
        self._hopeful: deque[tuple[float, int, int]] = deque()  # time to leave, index, generation
        self._num_submitted, self._num_idle = 0, arrivals.clients

    @property
    def are_done(self) -> bool:
        """Whether every request of the trace has been submitted."""
        return self._num_submitted == len(self._trace)

    @property
    def next_time(self) -> float:
        """When a client acts without having heard anything."""
        leaving = self._hopeful[0][0] if self._hopeful else _NEVER
        return min(leaving, self._next_arrival)

    @property
    def _next_arrival(self) -> float:
        if self.are_done:
            return _NEVER
        times = self._arrivals.times
        if times is not None:
            return float(times[self._num_submitted])
        return 0.0 if self._num_idle else _NEVER

    def act(self, now: float) -> None:
        """Everything that clients do up to `now`."""
        while self._next_arrival <= now:
            self._submit(now)
        while self._hopeful and self._hopeful[0][0] <= now:
            _, index, generation = self._hopeful.popleft()
            self._leave_if_waiting(index, generation, now)

    def asked_before(self, past: Trace) -> Iterator[tuple[scheduling.Request, int]]:
        """Each request of `past` as the scheduler reads it, and the length of its output."""
        for number in range(len(past)):
            asked = self._fill_record(past, number)
            request = scheduling.read_request(self._table, asked.index, asked.generation, order=number - len(past))
            assert request is not None, "nobody has taken it back"
            yield request, int(past.output[number])
            self._records.give_back(asked)

    def hear(self, progressed: bytes, now: float) -> None:
        """What the scheduler says: these requests have new tokens or have ended."""
        indexes = np.unique(parse_references(progressed)[:, 0].astype(np.int64))
        counts = self._fields["num_output"][indexes]
        is_new = counts > self._seen[indexes]
        self._receive(indexes[is_new], counts[is_new], now)
        for index in indexes[self._fields["finish_reason"][indexes] != FinishReason.NONE].tolist():
            if index in self._requests:
                self._end(index, now)

    def _receive(self, indexes: NDArray[np.int64], counts: NDArray[np.int32], now: float) -> None:
        service, numbers, gaps = self.service, self._number[indexes], now - self._last[indexes]
        is_first = self._seen[indexes] == 0
        service.first_token[numbers[is_first]] = now
        later, gaps = numbers[~is_first], gaps[~is_first]
        service.largest_gap[later] = np.maximum(service.largest_gap[later], gaps)
        service.gap_counts += np.bincount(np.searchsorted(_GAP_EDGES, gaps), minlength=len(service.gap_counts))
        self._seen[indexes], self._last[indexes] = counts, now

    def _submit(self, now: float) -> None:
        number, trace = self._num_submitted, self._trace
        came = now if self._arrivals.times is None else float(self._arrivals.times[number])
        self._num_submitted += 1
        self._num_idle -= 1
        request = self._fill_record(trace, number)
        index = request.index
        self._fields["arrival"][index] = self.service.submitted[number] = came
        self._requests[index], self._number[index], self._seen[index] = request, number, 0
        self._scheduler.submit(index, request.generation)
        self._hopeful.append((came + self._targets.patience_s, index, request.generation))

    def _fill_record(self, trace: Trace, number: int) -> Request:
        max_tokens = int(trace.max_tokens[number])
        params = SamplingParams(seed=number, max_tokens=max_tokens)
        taken = self._records.take(trace.prompt_tokens(number), params, max_tokens=max_tokens, stop_ids=[EOS])
        if taken is None:
            raise ConfigError("the simulated request table is full; lower the load or the number of clients")
        return taken[0]

    def _leave_if_waiting(self, index: int, generation: int, now: float) -> None:
        request = self._requests.get(index)
        if request is not None and request.generation == generation and self._fields["started"][index] == 0:
            self._end(index, now)

    def _end(self, index: int, now: float) -> None:
        """The request has ended, or its client takes it back."""
        request, number = self._requests.pop(index), self._number[index]
        self.service.ended[number] = now
        self.service.output[number] = self._fields["num_output"][index]
        self.service.preemptions[number] = self._fields["preemptions"][index]
        self.service.reason[number] = self._fields["finish_reason"][index] or FinishReason.ABORT
        self._scheduler.release(index, request.generation)
        self._records.give_back(request)
        self._num_idle += 1
