"""What a server does with more requests than it can serve: goodput, refusals and memory at several times its capacity.

    python -m benchmarks.overload [--loads X ...] [--seconds N] [--last N] [--ttft_target_s X] [--parallel N]
        [--json FILE]

Serves the bundled model over HTTP, by a new server for each load. Its capacity is measured first: as many requests as
may run are kept open. Then come random arrivals at a multiple of it, for `--seconds` and at the last load for `--last`.
An answer is good if its first token comes within the target and all of it comes. Refusals are 429; any other error is
counted as failed. With --parallel so many servers run beside one another, on two cores each.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

import numpy as np

from benchmarks import side_by_side
from lightllm.base.config import ServerConfig, parse
from lightllm.bench import arrivals, clients
from lightllm.bench.backends import PATHS
from lightllm.bench.datasets import Turn
from lightllm.bench.outcome import Outcome, Work
from lightllm.demo import MODEL_DIR
from lightllm.processes.supervisor import Supervisor

_RUNNING = 32
_PROMPT_TOKENS, _OUTPUT_TOKENS = (16, 128), (16, 128)  # uniform
_FIRST_ID, _LAST_ID = 300, 3000  # ordinary tokens of the bundled model
_SETTLING_S = 5.0  # of each load, not counted
_CAPACITY_REQUESTS = 400
_SERVER = {
    "model_dir": str(MODEL_DIR), "model_name": "lightllm-demo", "device": "cpu", "port": 0, "disable_log_stats": True,
    "running_max_req_size": _RUNNING, "max_total_token_num": 8192, "timeout_s": 60,
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One load, for so many seconds."""

    load: float
    seconds: float
    target: float
    capacity_requests: int
    seed: int


@dataclass
class Figures:
    """Of one load. Rates are requests a second, goodput tokens a second; latencies in seconds; memory in MB."""

    load: float
    capacity: float
    offered: float
    answered: float
    good: float
    goodput: float
    refused: float
    failed: int
    ttft_p50: float
    ttft_p99: float
    refusal_p50: float
    refusal_p99: float
    refusal_max: float
    after_last_s: float  # from the last request to the last answer
    memory_begin: float
    memory_end: float


class Memory(threading.Thread):
    """Proportional set size of the server's processes together, a sample a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []  # time.perf_counter(), MB
        self._is_over = threading.Event()

    def run(self) -> None:
        while not self._is_over.wait(1):
            self.samples.append((time.perf_counter(), sum(map(_megabytes, _children()))))

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """No more samples, so that the processes can end."""
        self._is_over.set()
        self.join()

    def between(self, start: float, end: float) -> float:
        """The mean over a time, MB."""
        return float(np.mean([size for at, size in self.samples if start <= at <= end] or [np.nan]))


def _children() -> list[int]:
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            if b"lightllm.processes" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def work(url: str, count: int, *, seed: int, due: list[float], concurrency: int | None) -> Work:
    draw = random.Random(seed)

    def turn() -> Turn:
        prompt = [draw.randint(_FIRST_ID, _LAST_ID) for _ in range(draw.randint(*_PROMPT_TOKENS))]
        return Turn(prompt, len(prompt), draw.randint(*_OUTPUT_TOKENS))

    return Work(
        url=url, path=PATHS["openai"], headers={}, backend="openai", model="lightllm-demo",
        sampling={"ignore_eos": True}, max_concurrency=concurrency, numbers=list(range(count)), due=due,
        conversations=[[turn()] for _ in range(count)], keeps_text=False,
    )  # fmt: skip


def wait_until_serving(url: str) -> None:
    while True:
        with contextlib.suppress(OSError), urlopen(url + "/health"):
            return
        time.sleep(0.05)


def capacity(url: str, count: int) -> float:
    """Requests a second that are answered while as many are open as may run."""
    for number in (_RUNNING, count):  # the first time to warm up
        given = work(url, number, seed=1, due=[0.0] * number, concurrency=_RUNNING)
        measured = clients.run([given], num_requests=number, bar=sys.stderr.isatty(), title="capacity")
    if errors := {outcome.error for outcome in measured.outcomes if not outcome.is_good}:
        raise SystemExit(f"not even at capacity: {errors}")
    ends = sorted(outcome.end for outcome in measured.outcomes)
    # At the end there are fewer left than may run.
    settled = len(ends) - _RUNNING
    return settled / (ends[settled - 1] - measured.start)


def figures(job: Job, rate: float, outcomes: list[Outcome], start: float, memory: Memory) -> Figures:
    begin, end = start + min(_SETTLING_S, job.seconds / 4), start + job.seconds
    within = [outcome for outcome in outcomes if begin <= outcome.end <= end]
    answered = [outcome for outcome in within if outcome.is_good]
    good = [outcome for outcome in answered if outcome.ttft <= job.target]
    refusals = np.array([o.end - o.start for o in within if o.error.startswith("429")] or [np.nan])
    ttfts = np.array([outcome.ttft for outcome in answered] or [np.nan])

    def per_second(number: int) -> float:
        return number / (end - begin)

    return Figures(
        load=job.load,
        capacity=rate,
        offered=per_second(sum(begin <= outcome.start <= end for outcome in outcomes)),
        answered=per_second(len(answered)),
        good=per_second(len(good)),
        goodput=per_second(sum(outcome.output_tokens for outcome in good)),
        refused=per_second(int(np.isfinite(refusals).sum())),
        failed=sum(not o.is_good and not o.error.startswith("429") for o in outcomes),
        ttft_p50=float(np.percentile(ttfts, 50)),
        ttft_p99=float(np.percentile(ttfts, 99)),
        refusal_p50=float(np.percentile(refusals, 50)),
        refusal_p99=float(np.percentile(refusals, 99)),
        refusal_max=float(refusals.max()),
        after_last_s=max(outcome.end for outcome in outcomes) - max(outcome.start for outcome in outcomes),
        memory_begin=memory.between(begin, begin + (end - begin) / 10 + 1),
        memory_end=memory.between(end - (end - begin) / 10 - 1, end),
    )


def show(all_figures: Sequence[Figures], target: float) -> None:
    best = max(one.goodput for one in all_figures)
    print(f"\ntarget for the first token {target:g} s\n")
    columns = "load", "capacity/s", "offered/s", "answered/s", "good/s", "goodput", "of best", "429/s", "failed"
    columns += "TTFT p50, p99 s", "429 after p50, p99, max ms", "last answer after s", "memory MB"
    print("|", " | ".join(columns), "|")
    print("|", " | ".join(["---"] * len(columns)), "|")
    for one in all_figures:
        refusal = ", ".join(f"{1000 * value:.0f}" for value in (one.refusal_p50, one.refusal_p99, one.refusal_max))
        refusal = refusal if one.refused else "-"
        print(
            f"| {one.load:g} | {one.capacity:.1f} | {one.offered:.1f} | {one.answered:.1f} | {one.good:.1f} | "
            f"{one.goodput:.0f} | {one.goodput / best:.0%} | "
            f"{one.refused:.1f} | {one.failed} | {one.ttft_p50:.2f}, {one.ttft_p99:.2f} | "
            f"{refusal} | {one.after_last_s:.1f} | {one.memory_begin:.0f} to {one.memory_end:.0f} |"
        )


def measure(job: Job) -> Figures:
    supervisor = Supervisor(parse(ServerConfig, _SERVER | {"ttft_target_s": job.target}))
    url, thread = f"http://127.0.0.1:{supervisor.config.port}", threading.Thread(target=supervisor.run)
    thread.start()
    try:
        wait_until_serving(url)
        rate = capacity(url, job.capacity_requests)
        count = max(1, round(job.load * rate * job.seconds))
        due = arrivals.offsets(count, job.load * rate, 1.0, seed=job.seed)
        given = work(url, count, seed=100 + job.seed, due=due, concurrency=None)
        title = f"{job.load:g} times capacity"
        with Memory() as memory:
            measured = clients.run([given], num_requests=count, bar=sys.stderr.isatty(), title=title)
        found = figures(job, rate, measured.outcomes, measured.start, memory)
        print(f"{title}: {found}; client busy {measured.cpu_share:.0%}", file=sys.stderr)
    finally:
        supervisor.stop()
        thread.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.8, 1.0, 1.5, 3.0], help="of capacity")
    parser.add_argument("--seconds", type=float, default=40.0, help="at each load but the last")
    parser.add_argument("--last", type=float, default=300.0, help="seconds at the last load")
    parser.add_argument("--ttft_target_s", type=float, default=3.0)
    parser.add_argument("--capacity_requests", type=int, default=_CAPACITY_REQUESTS)
    parser.add_argument("--parallel", type=int, default=1, help="loads that are measured at a time")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    seconds = [arguments.seconds] * (len(arguments.loads) - 1) + [arguments.last]
    jobs = [
        Job(load, time_s, arguments.ttft_target_s, arguments.capacity_requests, seed=number)
        for number, (load, time_s) in enumerate(zip(arguments.loads, seconds, strict=True))
    ]
    # The longest first, so that the others run beside it.
    found = [one for _, one in side_by_side.run(measure, jobs[::-1], parallel=arguments.parallel)]
    found.sort(key=lambda one: one.load)
    show(found, arguments.ttft_target_s)
    if arguments.json:
        results = {"ttft_target_s": arguments.ttft_target_s, "loads": [asdict(one) for one in found]}
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
