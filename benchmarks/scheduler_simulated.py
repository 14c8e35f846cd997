"""Past-future admission against the oracle, conservative admission and watermarks, in simulation.

    python -m benchmarks.scheduler_simulated --out DIRECTORY [--seeds N] [--traces NAME ...] [--processes N] [--plots]

Watermarks are shown twice: as published systems have them, where the request that came last gives way, and with this
scheduler's choice of who does. For each trace the best of each kind is found by its mean goodput over TUNING_LOADS; all
policies meet the same requests at LOADS, and on four traces at the numbers of clients of CLIENTS. Outcomes are kept in
DIRECTORY/outcomes.json, and what is there is not run again. Tables go to standard output, with --plots plots to the
directory.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import msgspec
from tqdm import tqdm

from lightllm.simulation import plots, report
from lightllm.simulation.cost import DEFAULT
from lightllm.simulation.outcome import Outcome
from lightllm.simulation.settings import SimulationSettings
from lightllm.simulation.sweep import Sweep

PAST_FUTURE, CONSERVATIVE, ORACLE = "past_future", "conservative", "oracle"
SHARES = (0.99, 0.95, 0.9, 0.85, 0.8)
WATERMARKS = [f"watermark:watermark={share}" for share in SHARES]
PUBLISHED = [f"{name},preemption=latest" for name in WATERMARKS]
LOADS = (0.6, 0.8, 1.0, 1.3)
Demand = float | int  # a load, or a number of clients
TUNING_LOADS, TUNING_SEEDS = (1.0, 1.3), 3
CLIENTS = {"decode_heavy": 40, "sharegpt_o1": 80, "mix": 90, "prefill_heavy": 40}
# What the 99 % watermark has to be beaten by at these clients, and the step cost that this was measured with.
MARGINS = {"decode_heavy": 0.33, "sharegpt_o1": 0.55, "mix": 0.06, "prefill_heavy": 0.13}
MARGINS_COST = DEFAULT.parent / "h100-llama-8b-published.json"
# What needs no tuning, and what meets the clients in a closed loop.
UNTUNED = (PAST_FUTURE, PUBLISHED[0], WATERMARKS[0], ORACLE)
OF_CLIENTS = (*UNTUNED, PUBLISHED[2], WATERMARKS[2])

_CLOSED_LOOP = 2  # times as many requests, since clients that leave ask again at once


@dataclass(frozen=True)
class Size:
    """Requests of a run at load 1, and as much of them at other loads as come in the same time, which is some times as
    long as one of them runs. A simulated token stands for `scale`."""

    requests: int
    scale: int
    pool_tokens: int = 120_000


SIZES = {
    "sharegpt_o1": Size(600, 16),
    "decode_heavy": Size(250, 16),
    "balanced": Size(200, 16),
    "prefill_heavy": Size(300, 16),
    "azure_code": Size(1000, 2),
    "azure_conversation": Size(1000, 8),
    "mooncake": Size(400, 8, pool_tokens=870_000),
    "mix": Size(500, 8),
    "shift": Size(600, 8),
}


@dataclass(frozen=True)
class Part:
    """One policy on one trace, at some demands."""

    kind: str
    trace: str
    policy: str
    seeds: int
    demands: tuple[Demand, ...]
    cost: str = ""

    @property
    def name(self) -> str:
        return f"{self.trace}/{self.kind}/{self.policy}"

    def sweeps(self) -> list[Sweep]:
        """One for each demand, as each needs another number of requests."""
        size = SIZES[self.trace]
        return [
            Sweep.of(
                SimulationSettings(
                    traces=[self.trace],
                    policies=[self.policy],
                    loads=[demand] if isinstance(demand, float) else [],
                    clients=[demand] if isinstance(demand, int) else [],
                    seeds=self.seeds,
                    requests=round(size.requests * (demand if isinstance(demand, float) else _CLOSED_LOOP)),
                    scale=size.scale,
                    pool_tokens=size.pool_tokens,
                    cost=self.cost,
                )
            )
            for demand in self.demands
        ]


class Study:
    """Runs parts side by side and keeps their outcomes in a file."""

    def __init__(self, path: Path, processes: int):
        self._path, self._processes = path, processes
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Outcome]]) if path.exists() else {}
        self._outcomes: dict[str, list[Outcome]] = kept

    def run(self, parts: Sequence[Part]) -> list[Outcome]:
        """The outcomes of all parts; only those are run that have none yet."""
        missing = [part for part in dict.fromkeys(parts) if part.name not in self._outcomes]
        jobs = [(part, sweep, case) for part in missing for sweep in part.sweeps() for case in sweep.cases]
        found: dict[Part, list[Outcome]] = {part: [] for part in missing}
        with (
            ProcessPoolExecutor(self._processes, mp_context=get_context("spawn")) as processes,
            tqdm(total=len(jobs), unit="run", disable=None) as progress,
        ):
            futures = {processes.submit(sweep.run_case, case): part for part, sweep, case in jobs}
            for future in as_completed(futures):
                part = futures[future]
                found[part].append(future.result())
                progress.update()
                if len(found[part]) == len(part.demands) * part.seeds:
                    found[part].sort(key=lambda one: (one.case.load, one.case.clients, one.case.seed))
                    self._outcomes[part.name] = found[part]
                    self._path.write_bytes(msgspec.json.encode(self._outcomes))
        return [one for part in parts for one in self._outcomes[part.name]]


def tuning(trace: str) -> list[Part]:
    return [Part("tuning", trace, policy, TUNING_SEEDS, TUNING_LOADS) for policy in [*WATERMARKS, *PUBLISHED]]


def at_loads(trace: str, policies: Iterable[str], seeds: int) -> list[Part]:
    return [Part("loads", trace, policy, seeds, LOADS) for policy in dict.fromkeys(policies)]


def at_clients(trace: str, seeds: int) -> list[Part]:
    return [Part("clients", trace, policy, seeds, (CLIENTS[trace],), str(MARGINS_COST)) for policy in OF_CLIENTS]


def of_trace(outcomes: Sequence[Outcome], trace: str) -> list[Outcome]:
    return [one for one in outcomes if one.case.trace == trace]


def goodput(outcomes: Iterable[Outcome], policy: str) -> float:
    """The mean over all that this policy was given."""
    return report.mean_and_error([one.goodput for one in outcomes if one.case.policy == policy])[0]


def best(outcomes: Sequence[Outcome], trace: str, policies: Sequence[str]) -> str:
    """The one of these policies with the highest goodput."""
    return max(policies, key=lambda policy: goodput(of_trace(outcomes, trace), policy))


def compare(outcomes: Sequence[Outcome], policy: str, other: str) -> tuple[float, float]:
    """By how much the goodput of `policy` is above that of `other`, and the standard error; as shares of the latter.

    Seeds are compared one by one, each with its mean over all demands.
    """
    seeds = sorted({one.case.seed for one in outcomes if one.case.policy == other})
    of_seed = [[one for one in outcomes if one.case.seed == seed] for seed in seeds]
    return report.mean_and_error([goodput(same, policy) / goodput(same, other) - 1 for same in of_seed])


def most_evictions(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Of past-future and the highest watermark as published, per request, at the load at which the latter has most."""
    means = {
        (case.load, case.policy): report.mean_and_error([one.evictions for one in found])[0]
        for case, found in report.groups(outcomes)
    }
    load = max({load for load, _ in means}, key=lambda load: means[load, PUBLISHED[0]])
    return means[load, PAST_FUTURE], means[load, PUBLISHED[0]]


def summary(found: dict[str, tuple[tuple[str, str], list[Outcome]]]) -> str:
    """A row for each trace, over all loads together: with the watermarks tuned to it, as published and as here."""
    lines = [
        "| trace | of oracle | over the tuned watermark, as published | as here | over watermark 0.99, as published | "
        "as here | over conservative | evictions, watermark 0.99 as published | past_future |",
        "|" + " --- |" * 9,
    ]
    for trace, (tuned, outcomes) in found.items():
        others = (*tuned, PUBLISHED[0], WATERMARKS[0], CONSERVATIVE)
        over = [compare(outcomes, PAST_FUTURE, other) for other in others]
        ours, theirs = most_evictions(outcomes)
        cells = [f"{100 * mean:+.1f} ± {100 * error:.1f} %" for mean, error in over]
        for number, policy in enumerate(tuned):
            cells[number] += f" ({policy.partition('=')[2].partition(',')[0]})"
        of_oracle, error = compare(outcomes, PAST_FUTURE, ORACLE)
        lines.append(
            f"| {trace} | {100 + 100 * of_oracle:.1f} ± {100 * error:.1f} % | {' | '.join(cells)} | "
            f"{100 * theirs:.1f} % | {100 * ours:.1f} % |"
        )
    return "\n".join(lines)


def margins(found: dict[str, list[Outcome]]) -> str:
    """A row for each trace with clients in a closed loop: goodput and evictions, and what past-future wins."""
    lines = [
        "| trace, clients | past_future | watermark 0.99, as published | as here | oracle | 0.9, as published | "
        "as here | over 0.99 as published | aim | over 0.99 as here | over 0.9 as published | as here |",
        "|" + " --- |" * 12,
    ]
    for trace, outcomes in found.items():
        cells = [
            f"{mean:,.0f} ± {error:,.0f} (evictions {100 * evictions:.1f} %)"
            for policy in OF_CLIENTS
            for same in [[one for one in outcomes if one.case.policy == policy]]
            for mean, error in [report.mean_and_error([one.goodput for one in same])]
            for evictions, _ in [report.mean_and_error([one.evictions for one in same])]
        ]
        compared = (PUBLISHED[0], WATERMARKS[0], PUBLISHED[2], WATERMARKS[2])
        over = [
            f"{100 * mean:+.0f} ± {100 * error:.0f} %"
            for mean, error in (compare(outcomes, PAST_FUTURE, other) for other in compared)
        ]
        over.insert(1, f"{100 * MARGINS[trace]:+.0f} %")
        lines.append(f"| {trace}, {CLIENTS[trace]} | {' | '.join([*cells, *over])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--traces", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that simulate")
    parser.add_argument("--plots", action="store_true", help="needs matplotlib")
    arguments = parser.parse_args()
    if arguments.plots:
        plots.require_matplotlib()
    study, traces, seeds = (
        Study(arguments.out / "outcomes.json", arguments.processes),
        arguments.traces,
        arguments.seeds,
    )
    closed = [trace for trace in CLIENTS if trace in traces]
    few = [Part("loads", trace, CONSERVATIVE, min(seeds, TUNING_SEEDS), LOADS) for trace in traces]
    untuned = [part for trace in traces for part in (*tuning(trace), *at_loads(trace, UNTUNED, seeds))]
    study.run([*untuned, *few, *(part for trace in closed for part in at_clients(trace, seeds))])
    tried = study.run([part for trace in traces for part in tuning(trace)])
    tuned = {trace: (best(tried, trace, PUBLISHED), best(tried, trace, WATERMARKS)) for trace in traces}
    outcomes = study.run(
        [*few, *(part for trace in traces for part in at_loads(trace, (*UNTUNED, *tuned[trace]), seeds))]
    )
    with_clients = study.run([part for trace in closed for part in at_clients(trace, seeds)])
    print(report.table(outcomes))
    if arguments.plots:
        plots.draw(outcomes, arguments.out)
    print(summary({trace: (tuned[trace], of_trace(outcomes, trace)) for trace in traces}), end="\n\n")
    print(margins({trace: of_trace(with_clients, trace) for trace in closed}))


if __name__ == "__main__":
    main()
