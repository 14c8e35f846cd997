"""Who gives way when the pool has no room for the next step.

The latest arrival does, so the oldest request always goes on and in the end everyone does. What it has computed stays
in the prefix tree until the slots are needed, and it waits at the front of the queue to go on exactly where it was.
"""

from lightllm.serving.scheduling.flights import Flights
from lightllm.serving.scheduling.holdings import most_taken
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.running import Running
from lightllm.serving.scheduling.waiting import Waiting


class Preemption:
    """Takes running requests' slots, and queues them when all tokens sampled for them have come."""

    def __init__(self, running: Running, waiting: Waiting, flights: Flights, limits: StepLimits):
        self._running, self._waiting, self._flights, self._limits = running, waiting, flights, limits
        self._leaving: list[Request] = []  # without slots, but in a row for which a token is outstanding

    def make_room(self) -> list[Request]:
        """Preempts until all that still runs has slots for the next step. Returns who had to give way."""
        preempted = []
        while self._slots_needed() > self._running.pool.num_available and len(self._running) > 1:
            request = self._running.latest()
            self._running.give_back_slots(request)
            self._running.rows.takes_part[request.row] = False
            preempted.append(request)
        if preempted:
            self._leaving += preempted
            self.queue_again()
        return preempted

    def queue_again(self) -> None:
        """Queues those whose last sampled token has come, unless it ended them."""
        self._leaving = [request for request in self._leaving if not request.has_ended]
        for request in [request for request in self._leaving if not self._flights.await_token(request.row)]:
            self._leaving.remove(request)
            request.tokens = self._running.known_tokens(request)
            self._running.rows.leave(request)
            self._waiting.add(request)

    def _slots_needed(self) -> int:
        """Slots that the next step takes at most if it runs all requests that run now."""
        rows = self._running.rows
        decodes, prefilling = len(rows.decoding()), rows.prefilling()
        if not len(prefilling):
            return decodes
        # First, since what is found need not be taken, and can no longer be evicted for what is.
        for row in prefilling:
            self._running.find_more(int(row))
        return decodes + most_taken(rows, prefilling, self._limits, budget=self._limits.tokens - decodes)
