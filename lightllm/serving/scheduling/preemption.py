"""Who gives way when the pool has no room for the next step.

Never the oldest, so it always goes on and in the end everyone does; where requests go by priority, never the oldest of
the most urgent, and only the least urgent. Which of the others is the choice of victims.py. What a victim has computed
stays in the prefix tree until the slots are needed, and it waits at the front of the queue to go on exactly where it
was.
"""

import numpy as np

from lightllm.serving.scheduling.beam_group import members
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
        if self._running.pool.slots.num_free >= tokens:
            return preempted  # more than one slot a token is never taken
        while (lacking := self._slots_needed(tokens) - self._running.pool.num_available) > 0:
            request = self._victim(lacking)
            if request is None:
                break
            for member in members(request):
                member.num_preemptions += 1
                self._running.give_back_slots(member)
                self._running.rows.takes_part[member.row] = False
            preempted.append(request)
        if preempted:
            self._leaving += preempted
            self.queue_again()
        return preempted

    def queue_again(self) -> None:
        """Queues those for whom nothing is outstanding any more, unless it ended them."""
        self._leaving = [request for request in self._leaving if not request.has_ended]
        for request in [request for request in self._leaving if not self._is_awaited(request)]:
            self._leaving.remove(request)
            if request.group is not None:
                request.group.forget_round()
            for member in members(request):
                member.tokens = self._running.known_tokens(member)
                self._running.rows.leave(member)
            self._waiting.add(request)

    def _is_awaited(self, request: Request) -> bool:
        return any(self._flights.await_anything(member.row) for member in members(request))

    def _victim(self, lacking: int) -> Request | None:
        """Who gives way where the next step lacks so many slots. None: nobody is left beside the oldest."""
        candidates = self._candidates()
        if not len(candidates):
            return None
        request = self._running.rows.requests[self._victims.choose(candidates, lacking)]
        assert request is not None, "a row that takes part has a request"
        return request if request.group is None else request.group.leader

    def _candidates(self) -> np.ndarray:
        """Rows that may have to give way: of all but the oldest, the least urgent."""
        rows = self._running.rows
        taking_part = rows.taking_part()
        if self._by_priority:
            taking_part = taking_part[np.argsort(rows.priority[taking_part], kind="stable")]
        others = taking_part[rows.order[taking_part] != rows.order[taking_part[:1]]]
        return others[rows.priority[others] == rows.priority[others[-1:]]] if self._by_priority else others

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
