"""A picture of one run: rates over time, and how latencies are distributed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightllm.base.errors import ConfigError
from lightllm.bench import figures, files
from lightllm.bench.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOUR = "#3b5b92"
_MARK = "#b0563b"
_FORMATS = (".png", ".svg", ".pdf")
_PERCENTILES = (50, 90, 99)
_LATENCIES = {
    "ttft": "time to first token, TTFT",
    "tpot": "time per output token after it, TPOT",
    "itl": "time between events, ITL",
    "e2el": "time to the last token, E2EL",
}


def check(path: str) -> None:
    """Raises ConfigError before anything is measured if nothing could be drawn afterwards."""
    if not path.endswith(_FORMATS):
        raise ConfigError(f"--plot={path}: give a name that ends with {', '.join(_FORMATS)}")
    try:
        import matplotlib  # noqa: F401  # whether it is there
    except ImportError:
        raise ConfigError(f"--plot={path} needs matplotlib; pip install matplotlib") from None
    files.destination(path, "plot")


def draw(outcomes: Sequence[Outcome], path: str, title: str) -> None:
    """Output tokens and open requests by time; each latency as the share of all that is below it."""
    good = [outcome for outcome in outcomes if outcome.is_good]
    if not good:
        print(f"no picture is drawn to {path}: no request succeeded")
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    picture.suptitle(title)
    _draw_tokens(axes[0, 0], good)
    _draw_open_requests(axes[0, 1], good)
    latencies = figures.latencies(good)
    for axis, (name, about) in zip((axes[0, 2], *axes[1]), _LATENCIES.items(), strict=True):
        _draw_distribution(axis, np.sort(latencies[name]), about)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    picture.savefig(Path(path).expanduser(), dpi=120)
    pyplot.close(picture)
    print(f"drawn to {path}")


def _draw_tokens(axis: "Axes", good: Sequence[Outcome]) -> None:
    axis.stairs(figures.tokens_by_second(good), color=_COLOUR, fill=True, alpha=0.6)
    axis.set(title="output tokens in each second", xlabel="seconds since the first request", xlim=(0, None))


def _draw_open_requests(axis: "Axes", good: Sequence[Outcome]) -> None:
    from matplotlib.ticker import MaxNLocator

    times, counts = figures.concurrency(good)
    axis.step([time - times[0] for time in times], counts, where="post", color=_COLOUR)
    axis.set(title="open requests", xlabel="seconds since the first request", xlim=(0, None), ylim=(0, None))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_distribution(axis: "Axes", values: np.ndarray, title: str) -> None:
    """values: ascending, ms."""
    axis.set(title=title, xlabel="ms", ylabel="% below", ylim=(0, 102))
    if not len(values):
        axis.text(0.5, 0.5, "no answer has a second token", ha="center", transform=axis.transAxes)
        return
    axis.step(values, np.arange(1, len(values) + 1) / len(values) * 100, where="post", color=_COLOUR)
    for percentile in _PERCENTILES:
        value = float(np.percentile(values, percentile))
        axis.plot(value, percentile, "o", color=_MARK, label=f"p{percentile} {value:,.1f} ms")
    axis.legend(loc="lower right", handlelength=0, handletextpad=0.5)
