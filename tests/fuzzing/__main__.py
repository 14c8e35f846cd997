"""`python -m tests.fuzzing`: runs many seeds, or one. Needs numpy and msgspec, nothing else.

What was run is kept in a file, so that a run that is interrupted goes on where it was. It begins anew when the code
has changed.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzzing import campaign, draw

_STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "lightllm" / "fuzz.json"
_BAR = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--processes", type=int, default=1, help="that run at a time")
    parser.add_argument("--state", type=Path, default=_STATE, help="file that keeps what was run")
    parser.add_argument("--replay", type=int, metavar="SEED", help="show the episode of one seed, and how it fails")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        return _replay(arguments.replay)
    return _run(arguments)


def _replay(seed: int) -> int:
    print(draw.episode(seed).source())
    result = campaign.run_block(seed, 1)
    print(result.report or f"passed: {result.steps} steps")
    return 1 if result.report else 0


def _run(arguments: argparse.Namespace) -> int:
    tally = campaign.Tally.read(arguments.state, first=arguments.first)
    if tally.seeds:
        print(f"{tally.seeds} seeds were run before, as {arguments.state} says", flush=True)
    progress = _Progress(tally, arguments.seeds, arguments.state)
    with ProcessPoolExecutor(arguments.processes) as pool:
        failures = campaign.run(tally, arguments.seeds, pool, ahead=2 * arguments.processes, note=progress.note)
    progress.close()
    for failure in failures:
        path = arguments.state.with_name(f"seed-{failure.failed_seed}.txt")
        path.write_text(failure.report)
        print(f"seed {failure.failed_seed} fails; {path} says:\n\n{failure.report}")
    each = 1000 * tally.seconds / max(1, tally.seeds)
    print(
        f"{'FAILED' if failures else 'passed'}: {tally.seeds} seeds from {tally.first} on without a failure, "
        f"{len(failures)} with one; {tally.steps} steps, {each:.2f} ms of a processor a seed"
    )
    return 1 if failures else 0


class _Progress:
    """Keeps what was run, and shows it: as a bar on a terminal, as a line now and then elsewhere."""

    def __init__(self, tally: campaign.Tally, seeds: int, state: Path):
        self._tally, self._seeds, self._state = tally, seeds, state
        self._is_terminal = sys.stderr.isatty()
        self._began, self._seeds_before = time.monotonic(), tally.seeds
        self._shown = 0.0

    def note(self) -> None:
        self._tally.write(self._state)
        now = time.monotonic()
        if now - self._shown < (0.2 if self._is_terminal else 15.0):
            return
        self._shown = now
        done, run = self._tally.seeds, self._tally.seeds - self._seeds_before
        left = (self._seeds - done) * (now - self._began) / max(1, run)
        filled = "#" * (_BAR * done // self._seeds)
        line = f"[{filled:.<{_BAR}}] {done}/{self._seeds} seeds, {max(0, round(left))} s left"
        print(line, end="\r" if self._is_terminal else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._is_terminal:
            print(file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
