"""A line in the log, every few seconds while something runs: throughput and memory."""

import time
from collections.abc import Callable

from lightllm.base import log
from lightllm.base.metrics import Metrics

_log = log.get(__name__)
_RATES = ("prompt_tokens", "prompt_tokens_cached", "generated_tokens", "preemptions")


class Statistics:
    """Reads the scheduler's metrics; nothing is counted twice for the log."""

    def __init__(self, metrics: Metrics, interval_s: float, clock: Callable[[], float] = time.monotonic):
        self._metrics, self._interval_s, self._clock = metrics, interval_s, clock
        self._shown_at, self._shown = clock(), self._counters()

    def show(self) -> None:
        """Logs a line if it is time for the next one and anything happened since the last."""
        if (seconds := self._clock() - self._shown_at) < self._interval_s:
            return
        now = self._counters()
        if now != self._shown:
            prompt, cached, generated, preempted = (new - old for new, old in zip(now, self._shown, strict=True))
            gauge = self._metrics.total
            _log.info(
                "%d running, %d waiting; %.1f tokens/s generated, %.1f tokens/s of prompts, %.0f %% of them cached; "
                "KV pool %.0f %% used, %.0f %% cached; %d preempted",
                gauge("batch_current_size"),
                gauge("queue_size"),
                generated / seconds,
                prompt / seconds,
                100 * cached / max(1, prompt),
                100 * gauge("kv_slots_used") / gauge("kv_slots_total"),
                100 * gauge("kv_slots_cached") / gauge("kv_slots_total"),
                preempted,
            )
        self._shown_at, self._shown = self._clock(), now

    def _counters(self) -> tuple[float, ...]:
        return tuple(self._metrics.total(name) for name in _RATES)
