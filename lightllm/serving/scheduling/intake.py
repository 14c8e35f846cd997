"""Which requests are taken in at all: as many as may wait, and those that will be answered in time."""

import math

from lightllm.base.config import EngineConfig
from lightllm.base.request import Refusal
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.wait_prediction import WaitPrediction
from lightllm.serving.scheduling.waiting import Waiting

# Requests that may wait where there is a target, while it is not known how long they will: a server that starts under
# full load soon knows, and would else begin with a queue that nobody has the time for.
_MOST_UNKNOWN = 16


class Intake:
    """Looks at the queue of the whole engine, whichever client a request comes from."""

    def __init__(self, config: EngineConfig, waiting: Waiting, wait: WaitPrediction, *, ttft_target_s: float | None):
        self._waiting, self._wait = waiting, wait
        self._most_requests = config.max_queued_requests
        self._most_tokens = math.inf if config.max_queued_tokens is None else config.max_queued_tokens
        self._ttft_target_s = math.inf if ttft_target_s is None else ttft_target_s

    @property
    def longest_wait(self) -> float:
        """Seconds until all who wait will have run, NaN if nothing is known of that."""
        return self._wait.seconds(self._waiting.new_work)

    def why_not(self, samples: list[Request], now: float) -> Refusal:
        """Why the samples of a prompt are not taken in, all or none. They are told how long they would wait.

        Those of a beam search have one place in the queue. With nobody waiting they may run at once, so they are let in
        whatever the bounds.
        """
        waiting, first = self._waiting, samples[0]
        predicted = self._wait.seconds(waiting.work_before(first))
        for request in samples:
            request.predicted_wait = predicted
        if not waiting.num_new:
            return Refusal.NONE
        places = 1 if first.group is not None else len(samples)
        if waiting.num_new + places > self._most_requests:
            return Refusal.QUEUE_REQUESTS
        if waiting.new_tokens + places * first.prompt_length > self._most_tokens:
            return Refusal.QUEUE_TOKENS
        if predicted > min(self._ttft_target_s, first.deadline - now) or self._is_blind_queue_full(places):
            return Refusal.TOO_LATE
        return Refusal.NONE

    def _is_blind_queue_full(self, count: int) -> bool:
        """Whether there is a target and a backlog, and `count` more are too many while its rate is not known."""
        is_blind = self._wait.has_backlog and not self._wait.is_known and self._ttft_target_s < math.inf
        return is_blind and self._waiting.num_new + count > _MOST_UNKNOWN
