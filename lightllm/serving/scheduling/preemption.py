"""Who gives way when the pool has no room for the next step.

Never the oldest, so it always goes on and in the end everyone does; where requests go by priority, never the oldest of
the most urgent, and only the least urgent. What a victim has computed stays in the prefix
tree until the slots are needed, and it waits at the front of the queue to go on exactly where it was.

What others do not share of it is what it gives free, and what may have to be computed again. So the victim is

* one that has been preempted before, whose client has already been kept waiting, before any other;
* one that gives free as much as the peak is predicted to exceed the pool by, lest others have to follow it;
* of these the one that has the least to compute again. If none is enough by itself, the one that gives most.
"""

import numpy as np

from lightllm.serving.scheduling.flights import Flights
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.holdings import Holdings, most_taken
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.running import Running
from lightllm.serving.scheduling.waiting import Waiting


class Preemption:
    """Takes running requests' slots, and queues them when all that steps in flight find out for them has come."""

    def __init__(
        self, running: Running, waiting: Waiting, flights: Flights, limits: StepLimits, forecast: Forecast,
        *, by_priority: bool = False,
    ):  # fmt: skip
        self._running, self._waiting, self._flights = running, waiting, flights
        self._limits, self._forecast, self._by_priority = limits, forecast, by_priority
        self._leaving: list[Request] = []  # without slots, but in a row for which something is outstanding

    def make_room(self, tokens: int) -> list[Request]:
        """Preempts until all that still runs has slots for the next step of `tokens`. Returns who had to give way."""
        preempted = []
        while (lacking := self._slots_needed(tokens) - self._running.pool.num_available) > 0 and len(self._running) > 1:
            request = self._victim(lacking)
            request.num_preemptions += 1
            self._running.give_back_slots(request)
            self._running.rows.takes_part[request.row] = False
            preempted.append(request)
        if preempted:
            self._leaving += preempted
            self.queue_again()
        return preempted

    def queue_again(self) -> None:
        """Queues those for whom nothing is outstanding any more, unless it ended them."""
        self._leaving = [request for request in self._leaving if not request.has_ended]
        for request in [request for request in self._leaving if not self._flights.await_anything(request.row)]:
            self._leaving.remove(request)
            request.tokens = self._running.known_tokens(request)
            self._running.rows.leave(request)
            self._waiting.add(request)

    def _victim(self, lacking: int) -> Request:
        """Who gives way where the next step lacks so many slots."""
        rows, pool = self._running.rows, self._running.pool
        holdings = Holdings.of(self._running, self._limits)
        lacking = max(lacking, int(np.median(self._forecast.peaks(self._running, holdings))) - pool.pool_tokens)
        urgency = rows.priority[holdings.rows] * self._by_priority
        others = np.lexsort((rows.order[holdings.rows], urgency))[1:]
        which, freed, urgency = holdings.rows[others], holdings.held[others], urgency[others]
        is_enough = freed >= lacking
        # The last key counts first; where all are the same, the latest gives way.
        costs = (-rows.order[which], np.where(is_enough, freed, -freed), ~is_enough, rows.num_preemptions[which] == 0)
        request = rows.requests[int(which[np.lexsort((*costs, -urgency))[0]])]
        assert request is not None, "a row that takes part has a request"
        return request

    def _slots_needed(self, tokens: int) -> int:
        """Slots that the next step, of at most `tokens`, takes if it runs all requests that run now."""
        rows = self._running.rows
        decodes, prefilling = len(rows.decoding()), rows.prefilling()
        if not len(prefilling):
            return decodes
        # First, since what is found need not be taken, and can no longer be evicted for what is.
        for row in prefilling:
            self._running.find_more(int(row))
        return decodes + most_taken(rows, prefilling, self._limits, budget=tokens - decodes)
