"""Counters, gauges and histograms in shared memory: one writer per process, any process may read the sum.

Declared here once; serving/metrics renders them. Names get the prefix `lightllm_`.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightllm.base.shared_memory import SharedMemory

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS = tuple(float(4**i) for i in range(11))


@dataclass(frozen=True)
class Metric:
    """A histogram has len(buckets) + 1 counts and a sum; the others one word."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    buckets: tuple[float, ...] = ()
    is_per_api: bool = False  # each api process's own value is shown, not the sum

    @property
    def words(self) -> int:
        return len(self.buckets) + 2 if self.buckets else 1


METRICS = {
    metric.name: metric
    for metric in (
        # api processes
        Metric("request_count", "counter", "Requests received"),
        Metric("request_success", "counter", "Requests that ended as asked"),
        Metric("request_failure", "counter", "Requests refused or ended by an error"),
        Metric("request_aborted", "counter", "Requests whose client left"),
        Metric("request_input_length", "histogram", "Prompt tokens of a request", TOKENS),
        Metric("request_generated_tokens", "histogram", "Output tokens of a request", TOKENS),
        Metric("cache_length", "histogram", "Prompt tokens of a request found in the prefix tree", TOKENS),
        Metric("request_inference_duration", "histogram", "Seconds from arrival to end of a request", SECONDS),
        Metric("request_first_token_duration", "histogram", "Seconds from arrival to the first token", SECONDS),
        Metric("request_mean_time_per_token_duration", "histogram", "Seconds per token after the first", SECONDS),
        Metric(
            "event_loop_lag", "gauge", "Seconds by which the last timer of an api process was late", is_per_api=True
        ),
        Metric("event_loop_lag_duration", "histogram", "Seconds by which timers of api processes were late", SECONDS),
        # scheduler
        Metric("queue_size", "gauge", "Requests that wait to run"),
        Metric("queue_tokens", "gauge", "Prompt tokens of requests that have not run yet"),
        Metric(
            "request_queue_duration", "histogram", "Seconds from a request's coming to its first admission", SECONDS
        ),
        # scheduler and api processes
        Metric("refused_queue_requests", "counter", "Requests refused because as many wait as may wait"),
        Metric("refused_queue_tokens", "counter", "Requests refused because as many prompt tokens wait as may wait"),
        Metric("refused_too_late", "counter", "Requests refused because they would have waited too long"),
        # scheduler
        Metric("expired_waiting", "counter", "Requests whose time was up before they ran"),
        Metric("expired_running", "counter", "Requests whose time was up after they had begun to run"),
        Metric("batch_current_size", "gauge", "Requests that run"),
        Metric("kv_slots_used", "gauge", "Slots of the KV pool that running requests hold"),
        Metric("kv_slots_cached", "gauge", "Slots of the KV pool that only the prefix tree holds"),
        Metric("kv_slots_total", "gauge", "Slots of the KV pool"),
        Metric("kv_slots_predicted_peak", "gauge", "Slots that the running requests will need at their peak"),
        Metric("length_history_size", "gauge", "Ended requests whose lengths predict those of others"),
        Metric("output_tokens_expected", "counter", "Tokens that ended requests were expected to generate"),
        Metric("output_tokens_ended", "counter", "Tokens that these requests generated"),
        Metric("prompt_tokens", "counter", "Prompt tokens of admitted requests"),
        Metric("prompt_tokens_cached", "counter", "Prompt tokens found in the prefix tree"),
        Metric("tokens_computed", "counter", "Tokens run through the model"),
        Metric("generated_tokens", "counter", "Tokens sampled and kept"),
        Metric("preemptions", "counter", "Times a running request was set back to waiting"),
        Metric("steps", "counter", "Steps planned"),
        # worker of rank 0
        Metric("steps_run", "counter", "Steps run"),
        Metric("steps_overlapped", "counter", "Steps at whose end the next plan had already arrived"),
        Metric("step_seconds", "counter", "Seconds spent in steps"),
        Metric("kernels_compiled_after_start", "counter", "Kernels compiled while requests waited; none is expected"),
        Metric("mask_waits", "counter", "Steps whose sampling needed masks of grammars"),
        Metric("mask_wait_seconds", "counter", "Seconds that sampling waited for masks of grammars"),
        Metric("masks_missing", "counter", "Masks that could not be made, or not in time; each ends its request"),
        # process grammar
        Metric("masks_made", "counter", "Masks made of what grammars allow next"),
        Metric("mask_seconds", "counter", "Seconds spent making masks"),
        Metric("grammar_compile_duration", "histogram", "Seconds until a grammar was compiled or refused", SECONDS),
    )
}
_OFFSETS = dict(zip(METRICS, np.cumsum([0] + [metric.words for metric in METRICS.values()]).tolist(), strict=False))
_WORDS = sum(metric.words for metric in METRICS.values())


class Metrics:
    """One process's block for writing; the sum over `blocks` processes for reading."""

    def __init__(self, memory: SharedMemory, block: int):
        self._all = np.frombuffer(memory.view, dtype=np.float64)[: len(memory.view) // 8 // _WORDS * _WORDS]
        self._all = self._all.reshape(-1, _WORDS)
        self._mine = self._all[block]

    @staticmethod
    def create(blocks: int) -> SharedMemory:
        return SharedMemory.create("metrics", blocks * _WORDS * 8)

    def add(self, name: str, amount: float = 1.0) -> None:
        self._mine[_OFFSETS[name]] += amount

    def set(self, name: str, value: float) -> None:
        self._mine[_OFFSETS[name]] = value

    def observe(self, name: str, value: float) -> None:
        at = _OFFSETS[name]
        self._mine[at + bisect_left(METRICS[name].buckets, value)] += 1
        self._mine[at + METRICS[name].words - 1] += value

    def clear(self) -> None:
        """Gauges of a process that begins (again) are zero; its counters go on."""
        for name, metric in METRICS.items():
            if metric.kind == "gauge":
                self.set(name, 0.0)

    def total(self, name: str) -> float:
        """A counter's or gauge's sum over all processes."""
        return float(self._all[:, _OFFSETS[name]].sum())

    def of_api_processes(self, name: str, count: int) -> list[float]:
        """A gauge of each of `count` api processes, whose blocks are the last ones."""
        return self._all[-count:, _OFFSETS[name]].tolist()

    def histogram(self, name: str) -> tuple[np.ndarray, float]:
        """Counts by bucket (the last one is unbounded) and the sum of what was observed, over all processes."""
        at = _OFFSETS[name]
        words = self._all[:, at : at + METRICS[name].words].sum(axis=0)
        return words[:-1], float(words[-1])
