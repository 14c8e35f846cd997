"""Draws outcomes with matplotlib, which is only imported here: it comes with `pip install lightllm[plot]`."""

from collections.abc import Sequence
from pathlib import Path

from lightllm.base.errors import ConfigError
from lightllm.simulation.outcome import Outcome
from lightllm.simulation.report import demand_of, groups, mean_and_error


def require_matplotlib() -> None:
    """Raises ConfigError if there is none."""
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("--plots needs matplotlib; install it with: pip install 'lightllm[plot]'") from None
    matplotlib.use("Agg")


def draw(outcomes: Sequence[Outcome], directory: Path) -> list[Path]:
    """A plot of goodput, evictions, TTFT and ITL by demand for each trace, and one of memory for each run that kept
    its series. Returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for trace in dict.fromkeys(one.case.trace for one in outcomes):
        of_trace = [one for one in outcomes if one.case.trace == trace]
        name = Path(trace).stem
        written.append(draw_demands(of_trace, directory / f"{name}.svg"))
        for demand in dict.fromkeys(demand_of(one.case) for one in of_trace):
            kept = [one for one in of_trace if one.series is not None and demand_of(one.case) == demand]
            if kept:
                written.append(
                    draw_memory(kept, directory / f"{name}, {demand}.svg".replace(", ", "-").replace(" ", "-"))
                )
    return written


def draw_demands(outcomes: Sequence[Outcome], path: Path) -> Path:
    """One trace's outcomes: a line for each policy, the demand from left to right."""
    from matplotlib import pyplot

    panels = [
        ("goodput, tokens/s", lambda one: one.goodput),
        ("evictions per request, %", lambda one: 100 * one.evictions),
        ("TTFT, 99th percentile, s", lambda one: one.ttft_p99),
        ("ITL, 99th percentile, ms", lambda one: 1000 * one.itl_p99),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.2))
    members = groups(outcomes)
    for (title, value), panel in zip(panels, axes, strict=True):
        for policy in dict.fromkeys(case.policy for case, _ in members):
            of_policy = [(case.load or case.clients, found) for case, found in members if case.policy == policy]
            points = [mean_and_error([value(one) for one in found]) for _, found in of_policy]
            demands = [demand for demand, _ in of_policy]
            panel.errorbar(demands, *zip(*points, strict=True), label=policy, capsize=2, marker="o", markersize=3)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("clients" if outcomes[0].case.clients else "load, share of capacity")
        panel.set_ylim(bottom=0)
    axes[0].legend(fontsize=7)
    figure.suptitle(Path(outcomes[0].case.trace).stem, fontsize=10)
    return _save(figure, path)


def draw_memory(outcomes: Sequence[Outcome], path: Path) -> Path:
    """For each policy: the share of the pool in use over time, and beside it predicted against actual peaks."""
    from matplotlib import pyplot

    rows = len(outcomes)
    figure, axes = pyplot.subplots(rows, 2, figsize=(10, 2.2 * rows), squeeze=False, width_ratios=(3, 1))
    for one, (memory, peaks) in zip(outcomes, axes, strict=True):
        assert one.series is not None, "those without series are left out"
        memory.plot(one.series.time, one.series.used, linewidth=0.8)
        memory.axhline(1, color="black", linewidth=0.5)
        memory.set(ylim=(0, 1.1), ylabel="pool used")
        memory.set_title(f"{one.case.policy}: {100 * one.evictions:.1f} % evictions", fontsize=9, loc="left")
        peaks.scatter(one.series.actual_peak, one.series.predicted_peak, s=2)
        peaks.axline((0, 0), slope=1, color="black", linewidth=0.5)
        peaks.set(xlabel="actual peak", ylabel="predicted", xlim=(0, 1.5), ylim=(0, 1.5))
    axes[-1][0].set_xlabel("seconds")
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return path
