"""Past-future admission against the oracle, conservative admission and watermarks, in simulation.

    python -m benchmarks.scheduler_simulated --out DIRECTORY [--seeds N] [--traces NAME ...]

For each trace the best of some watermarks is found first, by its mean goodput over TUNING_LOADS. Then all policies meet
the same requests at LOADS, and on four traces at the numbers of clients of CLIENTS. What is in the directory already is
not run again; tables go to standard output, plots to the directory.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tqdm import tqdm

from lightllm.simulation import plots, report
from lightllm.simulation.cost import DEFAULT
from lightllm.simulation.outcome import Outcome
from lightllm.simulation.settings import SimulationSettings
from lightllm.simulation.sweep import Sweep

PAST_FUTURE, CONSERVATIVE, ORACLE, HIGHEST = "past_future", "conservative", "oracle", "watermark:watermark=0.99"
LOADS = [0.6, 0.8, 1.0, 1.3]
Demand = float | int  # a load, or a number of clients
TUNING_LOADS, TUNING_SEEDS = [1.0, 1.3], 3
WATERMARKS = [HIGHEST, *(f"watermark:watermark={share}" for share in (0.95, 0.9, 0.85, 0.8))]
CLIENTS = {"decode_heavy": 40, "sharegpt_o1": 80, "mix": 90, "prefill_heavy": 40}
# What the 99 % watermark has to be beaten by at these clients, and the step cost that this was measured with.
MARGINS = {"decode_heavy": 0.33, "sharegpt_o1": 0.55, "mix": 0.06, "prefill_heavy": 0.13}
MARGINS_COST = DEFAULT.parent / "h100-llama-8b-published.json"

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


class Study:
    """Runs parts of the comparison and keeps their outcomes in files."""

    def __init__(self, directory: Path, seeds: int):
        self._directory, self._seeds = directory, seeds
        directory.mkdir(parents=True, exist_ok=True)

    def tuned(self, trace: str) -> str:
        """The watermark with the best mean goodput."""
        outcomes = self._run("tuning", trace, WATERMARKS, seeds=TUNING_SEEDS, demands=TUNING_LOADS)
        return max(WATERMARKS, key=lambda policy: goodput(outcomes, policy))

    def loads(self, trace: str, tuned: str) -> list[Outcome]:
        policies = list(dict.fromkeys([HIGHEST, tuned, ORACLE, PAST_FUTURE]))
        # It is far behind where it matters, which a few seeds show.
        few = self._run("loads", trace, [CONSERVATIVE], seeds=min(TUNING_SEEDS, self._seeds), demands=LOADS)
        return self._run("loads", trace, policies, seeds=self._seeds, demands=LOADS) + few

    def clients(self, trace: str) -> list[Outcome]:
        policies, clients = [HIGHEST, "watermark:watermark=0.9", ORACLE, PAST_FUTURE], [CLIENTS[trace]]
        return self._run("clients", trace, policies, seeds=self._seeds, demands=clients, cost=str(MARGINS_COST))

    def _run(self, kind: str, trace: str, policies: Sequence[str], *, seeds: int, **more) -> list[Outcome]:
        outcomes = []
        for policy in policies:
            path = self._directory / f"{trace}-{kind}-{policy.replace(':', '-')}.json"
            if not path.exists():
                found = _simulate(trace, policy, seeds=seeds, **more)
                path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
            outcomes += msgspec.json.decode(path.read_bytes(), type=list[Outcome])
        return outcomes


def _simulate(trace: str, policy: str, *, seeds: int, demands: Sequence[Demand], cost: str = "") -> list[Outcome]:
    size, outcomes = SIZES[trace], []
    for demand in demands:
        settings = SimulationSettings(
            traces=[trace],
            policies=[policy],
            loads=[demand] if isinstance(demand, float) else [],
            clients=[demand] if isinstance(demand, int) else [],
            seeds=seeds,
            history=1000 if policy == PAST_FUTURE else 0,  # the others look at nothing past
            requests=round(size.requests * (demand if isinstance(demand, float) else _CLOSED_LOOP)),
            scale=size.scale,
            pool_tokens=size.pool_tokens,
            cost=cost,
        )
        sweep = Sweep.of(settings)
        with tqdm(total=len(sweep.cases), desc=f"{trace}, {policy}, {demand}", unit="run", disable=None) as progress:
            outcomes += sweep.run(lambda _, progress=progress: progress.update())
    return outcomes


def goodput(outcomes: Iterable[Outcome], policy: str) -> float:
    """The mean over all that this policy was given."""
    return report.mean_and_error([one.goodput for one in outcomes if one.case.policy == policy])[0]


def compare(outcomes: Sequence[Outcome], policy: str, other: str) -> tuple[float, float]:
    """By how much the goodput of `policy` is above that of `other`, and the standard error; as shares of the latter.

    Seeds are compared one by one, each with its mean over all demands.
    """
    seeds = sorted({one.case.seed for one in outcomes if one.case.policy == other})
    of_seed = [[one for one in outcomes if one.case.seed == seed] for seed in seeds]
    return report.mean_and_error([goodput(same, policy) / goodput(same, other) - 1 for same in of_seed])


def most_evictions(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Of past-future and the highest watermark, per request, at the demand at which the latter evicts most."""
    means = {
        (case.load, case.policy): report.mean_and_error([one.evictions for one in found])[0]
        for case, found in report.groups(outcomes)
    }
    load = max({load for load, _ in means}, key=lambda load: means[load, HIGHEST])
    return means[load, PAST_FUTURE], means[load, HIGHEST]


def summary(found: dict[str, tuple[str, list[Outcome]]]) -> str:
    """A row for each trace, over all loads together."""
    lines = [
        "| trace | of oracle | over the tuned watermark | over watermark 0.99 | over conservative | "
        "evictions, watermark 0.99 | past_future |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for trace, (tuned, outcomes) in found.items():
        over = [compare(outcomes, PAST_FUTURE, other) for other in (tuned, HIGHEST, CONSERVATIVE)]
        ours, theirs = most_evictions(outcomes)
        cells = [f"{100 * mean:+.1f} ± {100 * error:.1f} %" for mean, error in over]
        cells[0] += f" ({tuned.rpartition('=')[2]})"
        of_oracle, error = compare(outcomes, PAST_FUTURE, ORACLE)
        lines.append(
            f"| {trace} | {100 + 100 * of_oracle:.1f} ± {100 * error:.1f} % | {' | '.join(cells)} | "
            f"{100 * theirs:.1f} % | {100 * ours:.1f} % |"
        )
    return "\n".join(lines)


def margins(found: dict[str, list[Outcome]]) -> str:
    """A row for each trace with clients in a closed loop."""
    lines = [
        "| trace, clients | past_future | watermark 0.99 | watermark 0.9 | oracle | over watermark 0.99 | aim |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for trace, outcomes in found.items():
        cells = [
            f"{mean:,.0f} ± {error:,.0f} (evictions {100 * evictions:.1f} %)"
            for policy in (PAST_FUTURE, HIGHEST, "watermark:watermark=0.9", ORACLE)
            for same in [[one for one in outcomes if one.case.policy == policy]]
            for mean, error in [report.mean_and_error([one.goodput for one in same])]
            for evictions, _ in [report.mean_and_error([one.evictions for one in same])]
        ]
        over = goodput(outcomes, PAST_FUTURE) / goodput(outcomes, HIGHEST) - 1
        lines.append(
            f"| {trace}, {CLIENTS[trace]} | {' | '.join(cells)} | {100 * over:+.0f} % | {100 * MARGINS[trace]:+.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--traces", nargs="+", default=list(SIZES), choices=list(SIZES))
    arguments = parser.parse_args()
    plots.require_matplotlib()
    study = Study(arguments.out, arguments.seeds)
    at_loads, at_clients = {}, {}
    for trace in arguments.traces:
        tuned = study.tuned(trace)
        outcomes = study.loads(trace, tuned)
        at_loads[trace] = tuned, outcomes
        plots.draw(outcomes, arguments.out)
        print(report.table(outcomes), flush=True)
    for trace in CLIENTS:
        if trace in arguments.traces:
            at_clients[trace] = study.clients(trace)
    print(summary(at_loads), margins(at_clients), sep="\n\n")


if __name__ == "__main__":
    main()
