"""Who gives way when the pool has no room for the next step.

Never the oldest, so it always goes on and in the end everyone does; where requests go by priority, never the oldest of
the most urgent, and only the least urgent. Which of the others is the choice of victims.py. What a victim has computed
stays in the prefix tree until the slots are needed, and it waits at the front of the queue to go on exactly where it
was.
"""

import numpy as np

from lightllm.serving.scheduling.flights import Flights
from lightllm.serving.scheduling.holdings import most_taken
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.running import Running
from lightllm.serving.scheduling.victims import Victims
from lightllm.serving.scheduling.waiting import Waiting


class Preemption:
    """Takes running requests' slots, and queues them when all that steps in flight find out for them has come."""

    def __init__(
        self, running: Running, waiting: Waiting, flights: Flights, limits: StepLimits, victims: Victims,
        *, by_priority: bool = False,
    ):  # fmt: skip
        self._running, self._waiting, self._flights = running, waiting, flights
        self._limits, self._victims, self._by_priority = limits, victims, by_priority
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
        request = self._running.rows.requests[self._victims.choose(self._candidates(), lacking)]
        assert request is not None, "a row that takes part has a request"
        return request

    def _candidates(self) -> np.ndarray:
        """Rows that may have to give way: of all but the oldest, the least urgent."""
        rows = self._running.rows
        taking_part = rows.taking_part()
        if not self._by_priority:
            return taking_part[1:]
        others = taking_part[np.argsort(rows.priority[taking_part], kind="stable")][1:]
        return others[rows.priority[others] == rows.priority[others[-1]]]

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
