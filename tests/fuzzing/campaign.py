"""Many seeds, in several processes, in as many sittings as it takes."""

import hashlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from tests.fuzzing import draw, shrink, world
from tests.fuzzing.events import Episode

BLOCK = 100  # seeds that a process runs at a time
_LONGEST_S = 60  # one seed; it takes some milliseconds
_OURS = ("lightllm", "tests")


@dataclass
class Tally:
    """What was run so far. `done` are the blocks beyond the first `whole` ones."""

    code: str
    first: int
    whole: int = 0
    done: list[int] = field(default_factory=list)
    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0  # of processors

    @classmethod
    def read(cls, path: Path, *, first: int) -> "Tally":
        """What an earlier sitting left, if it ran the same code from the same seed on."""
        new = cls(fingerprint(), first)
        if not path.exists():
            return new
        old = cls(**json.loads(path.read_text()))
        return old if (old.code, old.first) == (new.code, new.first) else new

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".new")
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.replace(path)

    def left(self, seeds: int) -> Iterator[int]:
        """Blocks that were not run yet, of those that make up `seeds`."""
        blocks = range(self.whole, -(-seeds // BLOCK))
        return (block for block in blocks if block not in set(self.done))

    def add(self, block: int, result: "Result") -> None:
        self.done = sorted([*self.done, block])
        while self.done[:1] == [self.whole]:
            del self.done[0]
            self.whole += 1
        self.seeds, self.steps = self.seeds + result.seeds, self.steps + result.steps
        self.seconds += result.seconds


@dataclass
class Result:
    """Of one block, up to its first failure."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    failed_seed: int | None = None
    report: str = ""  # what failed, and the shortest episode that fails so


def fingerprint() -> str:
    """Of all code of ours that is imported, which episodes are made of."""
    modules = (module for name, module in sys.modules.items() if name.partition(".")[0] in _OURS)
    sources = sorted(Path(module.__file__) for module in modules if module.__file__)
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def run(tally: Tally, seeds: int, pool: Executor, *, ahead: int, note: Callable[[], None]) -> list[Result]:
    """Runs what is left of `seeds`, up to `ahead` blocks at a time; `note` is called whenever there are more done.

    Returns the failures. After the first one nothing more is begun.
    """
    failures: list[Result] = []
    left = tally.left(seeds)
    running: dict[Future[Result], int] = {}
    while True:
        for block in islice(left, ahead - len(running)) if not failures else ():
            running[pool.submit(run_block, tally.first + block * BLOCK, BLOCK)] = block
        if not running:
            return failures
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            block, result = running.pop(future), future.result()
            if result.failed_seed is None:
                tally.add(block, result)
            else:
                failures.append(result)
        note()


def run_block(first: int, count: int) -> Result:
    """Seeds first to first + count - 1, or to the first that fails."""
    result, start = Result(), time.process_time()
    handler = signal.signal(signal.SIGALRM, _too_long)
    for seed in range(first, first + count):
        try:
            signal.alarm(_LONGEST_S)
            result.steps += world.run(draw.episode(seed)).watch.num_steps
        except Exception as error:  # whatever it is, it is what is looked for
            signal.alarm(0)
            result.failed_seed, result.report = seed, report(draw.episode(seed), error)
            break
        result.seeds += 1
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    result.seconds = time.process_time() - start
    return result


def report(episode: Episode, error: Exception) -> str:
    """What went wrong, and as a test the shortest episode found in which it does."""
    if not isinstance(error, TimeoutError):
        episode = shrink.shrink(episode)
        error = shrink.failure(episode) or error
    return f"{''.join(traceback.format_exception(error, chain=False))}\nworld.run(\n{episode.source()}\n)\n"


def _too_long(_signal: int, _frame: object) -> None:
    raise TimeoutError(f"an episode takes more than {_LONGEST_S} s")
