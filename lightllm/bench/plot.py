"""A picture of one run: rates over time, and how latencies are distributed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightllm.base.errors import ConfigError
from lightllm.bench import figures, files
from lightllm.bench.outcome import Outcome

_COLOUR = "#3b5b92"
_FORMATS = (".png", ".svg", ".pdf")


def check(path: str) -> None:
    """Raises ConfigError before anything is measured if nothing could be drawn afterwards."""
    if not path.endswith(_FORMATS):
        raise ConfigError(f"--plot={path}: give a name that ends with {', '.join(_FORMATS)}")
    try:
        import matplotlib  # noqa: F401  # whether it is there
    except ImportError:
        raise ConfigError(f"--plot={path} needs matplotlib; pip install matplotlib") from None
    files.destination(path, "plot")


def draw(outcomes: Sequence[Outcome], path: str) -> None:
    """Output tokens and open requests by time; TTFT, TPOT and time between events as shares of what is below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    good = [outcome for outcome in outcomes if outcome.is_good]
    if not good:
        return
    picture, axes = pyplot.subplots(2, 3, figsize=(12, 6))
    begin = min(outcome.start for outcome in good)
    rate = figures.tokens_by_second(good)
    axes[0, 0].stairs(rate, color=_COLOUR)
    axes[0, 0].set(title="output tokens in each second", xlabel="s")
    times, counts = figures.concurrency(good)
    axes[0, 1].step([time - begin for time in times], counts, where="post", color=_COLOUR)
    axes[0, 1].set(title="open requests", xlabel="s")
    latencies = figures.latencies(good)
    titles = {"e2el": "time to the last token", "ttft": "time to first token", "tpot": "time per output token"}
    for axis, (name, title) in zip(
        (axes[0, 2], *axes[1]), [*titles.items(), ("itl", "time between events")], strict=True
    ):
        values = np.sort(latencies[name])
        axis.plot(values, np.arange(1, len(values) + 1) / max(1, len(values)), color=_COLOUR)
        axis.set(title=f"{title}, share below", xlabel="ms", ylim=(0, 1))
    picture.tight_layout()
    picture.savefig(Path(path).expanduser())
    pyplot.close(picture)
