"""What one simulated run showed, as numbers that can be compared and written down."""

import msgspec
import numpy as np

from lightllm.base.request import FinishReason
from lightllm.simulation.clients import Service, Targets
from lightllm.simulation.run import Steps
from lightllm.simulation.trace import Trace

_POINTS = 500  # of a series that is kept for plots


class Case(msgspec.Struct, frozen=True):
    """What was run. `load` is 0 where clients ask in a closed loop, and `clients` is 0 where they do not."""

    trace: str
    policy: str
    load: float
    clients: int
    seed: int


class Series(msgspec.Struct, frozen=True):
    """Memory by time: share of the pool in use; and at admissions the predicted and the actual peak, as shares too."""

    time: list[float]
    used: list[float]
    predicted_peak: list[float]
    actual_peak: list[float]


class Outcome(msgspec.Struct, frozen=True):
    """Of the time after the warm-up. Rates are in tokens per second, prompt and output; times in seconds."""

    case: Case
    goodput: float  # tokens of requests that were served well
    throughput: float  # tokens of all requests that were answered
    answered: int
    served_well: float  # share of those that ended, taken back ones included
    taken_back: int  # requests whose clients lost patience
    evictions: float  # per answered request
    evicted: float  # share of answered requests
    used: float  # mean share of the pool
    peak_ratio: float  # median of predicted by actual peak, at admissions
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    steps: int
    seconds: float  # simulated
    series: Series | None = None


def outcome(
    case: Case, trace: Trace, service: Service, steps: Steps, *, targets: Targets, pool_tokens: int, scale: int,
    warm_up: float, with_series: bool,
) -> Outcome:  # fmt: skip
    """`trace`, `pool_tokens` and `steps` in units of `scale` tokens."""
    end = service.submitted[-1]
    begin = warm_up * end
    has_ended = (service.ended > begin) & (service.ended <= end)
    is_answered = has_ended & ((service.reason == FinishReason.STOP) | (service.reason == FinishReason.LENGTH))
    ttft = service.first_token - service.submitted
    is_well = is_answered & (ttft <= targets.ttft_s) & (service.largest_gap <= targets.gap_s)
    tokens, seconds, answered = (trace.prompt + service.output) * scale, end - begin, int(is_answered.sum())
    ended_steps = (steps.end > begin) & (steps.end <= end)
    return Outcome(
        case,
        goodput=float(tokens[is_well].sum() / seconds),
        throughput=float(tokens[is_answered].sum() / seconds),
        answered=answered,
        served_well=float(is_well.sum() / max(1, has_ended.sum())),
        taken_back=int((has_ended & (service.reason == FinishReason.ABORT)).sum()),
        evictions=float(service.preemptions[is_answered].sum() / max(1, answered)),
        evicted=float((service.preemptions[is_answered] > 0).sum() / max(1, answered)),
        used=float(np.average(steps.used[ended_steps], weights=steps.seconds[ended_steps]) / pool_tokens),
        peak_ratio=float(np.median(steps.predicted_peak / np.maximum(1, steps.actual_peak))),
        ttft_p50=_percentile(ttft[is_answered], 50),
        ttft_p99=_percentile(ttft[is_answered], 99),
        itl_p50=service.gap_percentile(50) / scale,
        itl_p99=service.gap_percentile(99) / scale,
        steps=len(steps.end),
        seconds=float(steps.end[-1]),
        series=_series(steps, pool_tokens) if with_series else None,
    )


def _series(steps: Steps, pool_tokens: int) -> Series:
    chosen = np.linspace(0, len(steps.end) - 1, min(_POINTS, len(steps.end))).astype(np.int64)
    admissions = np.linspace(0, len(steps.admitted_at) - 1, min(_POINTS, len(steps.admitted_at))).astype(np.int64)
    return Series(
        time=steps.end[chosen].round(3).tolist(),
        used=(steps.used[chosen] / pool_tokens).round(4).tolist(),
        predicted_peak=(steps.predicted_peak[admissions] / pool_tokens).round(4).tolist(),
        actual_peak=(steps.actual_peak[admissions] / pool_tokens).round(4).tolist(),
    )


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else float("nan")
