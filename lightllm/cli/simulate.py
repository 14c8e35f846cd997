"""`lightllm simulate`: the server's scheduler on a trace, with the time that steps would take."""

from pathlib import Path

import msgspec
from tqdm import tqdm

from lightllm.base.config import parse
from lightllm.simulation import plots, report
from lightllm.simulation.settings import SimulationSettings
from lightllm.simulation.sweep import Sweep


def run(**flags: object) -> int:
    """Prints a table, and writes results and plots where asked for. Raises ConfigError."""
    settings = parse(SimulationSettings, flags)
    if settings.plots:
        plots.require_matplotlib()
    sweep = Sweep.of(settings)
    with tqdm(total=len(sweep.cases), desc="simulated", unit="run", disable=None) as progress:
        outcomes = sweep.run(lambda _: progress.update())
    print(report.table(outcomes))
    if settings.json:
        Path(settings.json).write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1))
    if settings.plots:
        for path in plots.draw(outcomes, Path(settings.plots)):
            print(path)
    return 0
