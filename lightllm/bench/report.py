"""Figures as people read them."""

from collections.abc import Iterable, Mapping
from typing import Any

_TITLES = {
    "ttft": "time to first token",
    "tpot": "time per output token after the first",
    "itl": "time between events",
    "e2el": "time to the last token",
}
_TOTALS = {
    "completed": "requests done",
    "failed": "requests failed",
    "duration": "seconds",
    "total_input_tokens": "input tokens",
    "total_cached_tokens": "of them from the server's cache",
    "total_output_tokens": "output tokens",
    "request_throughput": "requests/s",
    "request_goodput": "good requests/s",
    "output_throughput": "output tokens/s",
    "total_token_throughput": "tokens/s in all",
    "max_output_tokens_per_s": "most output tokens in a second",
    "max_concurrent_requests": "most requests at a time",
    "tokens_per_event": "tokens an event",
}
_BUSY = 0.8  # share of a core from which on the client may be what is measured


def show(figures: Mapping[str, Any], names: Iterable[str]) -> None:
    """Prints totals, then each of the latencies `names`, then what makes the figures doubtful."""
    for name, title in _TOTALS.items():
        if figures[name] is not None:
            _row(title, figures[name])
    for name in names:
        found = [key for key in figures if key.endswith(f"_{name}_ms")]
        if found:
            print(f"{_TITLES[name]}, {name.upper()}, ms")
        for key in found:
            _row(key.split("_")[0], figures[key])
    for doubt in doubts(figures):
        print(f"note: {doubt}")


def _row(title: str, value: float) -> None:
    print(f"  {title:<34} {value:>14,}" if isinstance(value, int) else f"  {title:<34} {value:>14,.2f}")


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know."""
    notes = []
    if figures["interrupted"]:
        notes.append("interrupted; these are the figures of what was answered by then")
    if figures["client_cpu_share"] > _BUSY:
        notes.append(
            f"the client was busy for {figures['client_cpu_share']:.0%} of the time, so it may be what was measured; "
            "raise --client_processes"
        )
    if figures["uncounted"]:
        notes.append(
            f"the server does not say how many tokens {figures['uncounted']} answers have; each event counts as one"
        )
    if figures["wrong_input_lens"]:
        notes.append(f"{figures['wrong_input_lens']} prompts had another length on the server than asked for")
    if figures["wrong_output_lens"]:
        notes.append(f"{figures['wrong_output_lens']} answers had another length than asked for; try --ignore_eos")
    notes += [f"{count} times: {error}" for error, count in figures["most_common_errors"].items()]
    return notes
