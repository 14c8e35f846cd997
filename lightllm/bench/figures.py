"""From outcomes to figures, named as vLLM's benchmark names them in its JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from lightllm.bench.outcome import Outcome

_MOST_ERRORS = 5


def latencies(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """By name, in ms: time to first token, time per token after it, gaps between events, time to the last token."""
    good = [outcome for outcome in outcomes if outcome.is_good]
    return {
        "ttft": [1e3 * outcome.ttft for outcome in good],
        "tpot": [1e3 * tpot for outcome in good if (tpot := outcome.tpot) is not None],
        "itl": [1e3 * gap for outcome in good for gap in outcome.itls],
        "e2el": [1e3 * outcome.e2el for outcome in good],
    }


def summary(
    values: Mapping[str, Sequence[float]], names: Iterable[str], percentiles: Iterable[float]
) -> dict[str, Any]:
    """mean_, median_, std_ and percentiles of each of `names`; nothing of one that was never measured."""
    figures: dict[str, Any] = {}
    for name in names:
        if values[name]:
            numbers = np.asarray(values[name])
            figures[f"mean_{name}_ms"] = float(numbers.mean())
            figures[f"median_{name}_ms"] = float(np.median(numbers))
            figures[f"std_{name}_ms"] = float(numbers.std())
            figures |= {f"p{_word(p)}_{name}_ms": float(np.percentile(numbers, p)) for p in percentiles}
    return figures


def _word(percentile: float) -> str:
    return f"{percentile:g}"


def totals(outcomes: Sequence[Outcome], limits: Mapping[str, float]) -> dict[str, Any]:
    """Counts and rates over the time from the first request to the last token of all. limits: for goodput, ms."""
    good = [outcome for outcome in outcomes if outcome.is_good]
    duration = _duration(good)
    inputs, outputs = sum(o.prompt_tokens for o in good), sum(o.output_tokens for o in good)
    return {
        "duration": duration,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": inputs,
        "total_cached_tokens": _sum_of_known(outcome.cached_tokens for outcome in good),
        "total_output_tokens": outputs,
        "request_throughput": len(good) / duration,
        "request_goodput": sum(_is_within(outcome, limits) for outcome in good) / duration if limits else None,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
        "max_output_tokens_per_s": peak_rate(good),
        "max_concurrent_requests": peak_concurrency(good),
        "tokens_per_event": outputs / max(1, sum(len(outcome.times) for outcome in good)),
        "uncounted": sum(outcome.counts_events for outcome in good),
        "wrong_input_lens": sum(o.asked_prompt_tokens not in (0, o.prompt_tokens) for o in good),
        "wrong_output_lens": sum(outcome.asked_output_tokens != outcome.output_tokens for outcome in good),
        "most_common_errors": dict(Counter(o.error for o in outcomes if o.error).most_common(_MOST_ERRORS)),
    }


def _sum_of_known(counts: Iterable[int | None]) -> int | None:
    """None if none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _duration(outcomes: Sequence[Outcome]) -> float:
    if not outcomes:
        return 1e-9
    return max(outcome.times[-1] for outcome in outcomes) - min(outcome.start for outcome in outcomes)


def _is_within(outcome: Outcome, limits: Mapping[str, float]) -> bool:
    reached = {"ttft": outcome.ttft, "e2el": outcome.e2el, "tpot": outcome.tpot or 0.0}
    return all(1e3 * reached[name] <= limit for name, limit in limits.items())


def tokens_by_second(outcomes: Sequence[Outcome]) -> np.ndarray:
    """Output tokens in each second after the first request. An event's tokens are its request's mean."""
    if not outcomes:
        return np.zeros(1)
    begin = min(outcome.start for outcome in outcomes)
    seconds = np.concatenate([np.asarray(outcome.times) - begin for outcome in outcomes]).astype(int)
    weights = np.concatenate([np.full(len(o.times), o.output_tokens / len(o.times)) for o in outcomes])
    return np.bincount(seconds, weights)


def peak_rate(outcomes: Sequence[Outcome]) -> float:
    """Most output tokens in one second."""
    return float(tokens_by_second(outcomes).max())


def concurrency(outcomes: Sequence[Outcome]) -> tuple[list[float], list[int]]:
    """Times at which the number of open requests changes, and the number from then on."""
    changes = sorted([(o.start, 1) for o in outcomes] + [(o.times[-1], -1) for o in outcomes])
    return [time for time, _ in changes], list(accumulate(change for _, change in changes))


def peak_concurrency(outcomes: Sequence[Outcome]) -> int:
    """Most requests that were open at the same time."""
    return max(concurrency(outcomes)[1], default=0)


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything about each request, in lists of one length; seconds."""
    return {
        "input_lens": [outcome.prompt_tokens for outcome in outcomes],
        "output_lens": [outcome.output_tokens for outcome in outcomes],
        "start_times": [outcome.start for outcome in outcomes],
        "ttfts": [outcome.ttft if outcome.times else 0.0 for outcome in outcomes],
        "itls": [outcome.itls for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }
