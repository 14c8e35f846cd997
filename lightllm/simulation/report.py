"""Outcomes of several seeds together: means with their standard errors, as a table."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from lightllm.simulation.outcome import Case, Outcome
from lightllm.simulation.policies import ORACLE

Column = tuple[str, Callable[[Outcome], float], str]

_COLUMNS: list[Column] = [
    ("tokens/s", lambda one: one.throughput, "{:,.0f}"),
    ("well", lambda one: 100 * one.served_well, "{:.0f} %"),
    ("evictions", lambda one: 100 * one.evictions, "{:.1f} %"),
    ("pool used", lambda one: 100 * one.used, "{:.0f} %"),
    ("peak", lambda one: one.peak_ratio, "{:.2f}"),
    ("TTFT p50", lambda one: one.ttft_p50, "{:.2f} s"),
    ("p99", lambda one: one.ttft_p99, "{:.2f} s"),
    ("ITL p50", lambda one: 1000 * one.itl_p50, "{:.1f} ms"),
    ("p99", lambda one: 1000 * one.itl_p99, "{:.1f} ms"),
]
_HEADER = ["policy", "goodput", "of oracle", *(name for name, _, _ in _COLUMNS)]
EXPLANATION = (
    "goodput: tokens/s, prompt and output, of requests served in time. well: share of requests served so. evictions: "
    "preemptions per answered request. peak: median of predicted by actual peak, where a policy predicts one."
)

Group = tuple[Case, list[Outcome]]


def groups(outcomes: Sequence[Outcome]) -> list[Group]:
    """The outcomes that differ by their seed only, with one of their cases."""

    def key(one: Outcome) -> tuple[str, float, int, str]:
        return one.case.trace, one.case.load, one.case.clients, one.case.policy

    ordered: dict[tuple, list[Outcome]] = {}
    for one in outcomes:
        ordered.setdefault(key(one), []).append(one)
    return [(members[0].case, members) for members in ordered.values()]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error: 0 for a single value."""
    error = float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0
    return float(np.mean(values)), error


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a table for each trace and demand, a row for each policy."""
    tables: dict[str, list[Group]] = {}
    for case, members in groups(outcomes):
        tables.setdefault(f"{case.trace}, {demand_of(case)}", []).append((case, members))
    parts = [line for title, members in tables.items() for line in (title, "", *_rows(members), "")]
    return "\n".join([*parts, EXPLANATION])


def demand_of(case: Case) -> str:
    return f"{case.clients} clients" if case.clients else f"load {case.load:g}"


def _rows(members: Sequence[Group]) -> list[str]:
    oracle = next((outcomes for case, outcomes in members if case.policy == ORACLE), None)
    lines = [_HEADER, ["---"] * len(_HEADER)]
    for case, outcomes in members:
        mean, error = mean_and_error([one.goodput for one in outcomes])
        share = f"{100 * mean / mean_and_error([one.goodput for one in oracle])[0]:.1f} %" if oracle else ""
        cells = [form.format(np.mean([value(one) for one in outcomes])) for _, value, form in _COLUMNS]
        lines.append([case.policy, f"{mean:,.0f} ± {error:,.0f}", share, *cells])
    return [f"| {' | '.join(cells)} |" for cells in _aligned(lines)]


def _aligned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
