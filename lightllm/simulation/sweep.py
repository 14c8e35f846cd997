"""All combinations of traces, policies, loads and seeds, run side by side in processes of their own."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

from lightllm.base.config import Admission
from lightllm.base.errors import ConfigError
from lightllm.simulation import cost, trace, workloads
from lightllm.simulation.capacity import arrival_times
from lightllm.simulation.clients import Arrivals, Targets
from lightllm.simulation.cost import StepCost
from lightllm.simulation.outcome import Case, Outcome, outcome
from lightllm.simulation.policies import ORACLE, policy
from lightllm.simulation.run import simulate
from lightllm.simulation.settings import SimulationSettings
from lightllm.simulation.trace import Trace

_PAST = 1_000_000  # added to seeds


@dataclass(frozen=True)
class Sweep:
    """The cases of some settings, checked."""

    settings: SimulationSettings
    cost: StepCost
    cases: Sequence[Case]

    @classmethod
    def of(cls, settings: SimulationSettings) -> "Sweep":
        """Raises ConfigError for what cannot be run."""
        if settings.loads and settings.clients:
            raise ConfigError("--loads and --clients exclude one another; give one of them")
        if min([*settings.loads, *settings.clients], default=1) <= 0:
            raise ConfigError("--loads and --clients are above 0")
        names = settings.traces or ["sharegpt_o1"]
        policies = settings.policies or [*get_args(Admission), ORACLE]
        for text in policies:
            policy(text, settings.settings, scale=settings.scale)
        demands = [(0.0, clients) for clients in settings.clients] or [(load, 0) for load in settings.loads or [1.0]]
        cases = [
            Case(name, text, load, clients, seed)
            for name, (load, clients), seed, text in product(names, demands, range(settings.seeds), policies)
        ]
        step_cost = cost.load(Path(settings.cost) if settings.cost else cost.DEFAULT)
        for name in dict.fromkeys(names):
            _trace(name, settings, seed=0)
        return cls(settings, step_cost, cases)

    def run(self, done: Callable[[Outcome], object]) -> list[Outcome]:
        """Calls `done` after each case; returns the outcomes in the order of the cases."""
        jobs = min(self.settings.jobs or len(os.sched_getaffinity(0)), len(self.cases))
        found: dict[Case, Outcome] = {}
        for result in map(self.run_case, self.cases) if jobs == 1 else self._run_beside(jobs):
            found[result.case] = result
            done(result)
        return [found[case] for case in self.cases]

    def _run_beside(self, jobs: int) -> Iterator[Outcome]:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as processes:
            for future in as_completed([processes.submit(self.run_case, case) for case in self.cases]):
                yield future.result()

    def run_case(self, case: Case) -> Outcome:
        settings = self.settings
        chosen = policy(case.policy, settings.settings, scale=settings.scale)
        asked = _trace(case.trace, settings, seed=case.seed)
        targets = Targets(settings.ttft_s, settings.gap_s, settings.patience_s)
        told = chosen.told(asked.scaled(settings.scale))
        service, steps = simulate(
            told,
            self._arrivals(asked, case),
            chosen.config,
            pool_tokens=settings.pool_tokens // settings.scale,
            cost=self.cost.scaled(settings.scale),
            targets=targets,
            past=self._past(case),
        )
        return outcome(
            case,
            told,
            service,
            steps,
            targets=targets,
            pool_tokens=settings.pool_tokens // settings.scale,
            scale=settings.scale,
            warm_up=settings.warm_up,
            with_series=case.seed == 0,
        )

    def _past(self, case: Case) -> Trace | None:
        """Requests of the trace's first phase, others than those of the trace."""
        settings = self.settings
        if case.trace not in workloads.WORKLOADS or not settings.history:
            return None
        drawn = workloads.draw(case.trace, seed=_PAST + case.seed, count=settings.history)
        return drawn.part(drawn.phase == 0).scaled(settings.scale)

    def _arrivals(self, asked: Trace, case: Case) -> Arrivals:
        if case.clients:
            return Arrivals(clients=case.clients)
        settings = self.settings
        # The same for all policies, whatever settings they have of their own.
        rows = policy(ORACLE, settings.settings, scale=1).config.running_max_req_size
        drawn = arrival_times(asked, case.load, self.cost, pool_tokens=settings.pool_tokens, rows=rows, seed=case.seed)
        if asked.arrival is None:
            return Arrivals(drawn)
        if not settings.loads:
            return Arrivals(asked.arrival)
        # As it was recorded, but so much faster or slower.
        return Arrivals(asked.arrival * (drawn[-1] / max(asked.arrival[-1], 1e-9)))


def _trace(name: str, settings: SimulationSettings, *, seed: int) -> Trace:
    if name in workloads.WORKLOADS or not Path(name).exists():
        return workloads.draw(name, seed=seed, count=settings.requests)
    return trace.read(Path(name))
