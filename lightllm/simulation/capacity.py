"""How many requests of a trace a server could at most answer per second, and when requests come at a given load."""

import numpy as np
from numpy.typing import NDArray

from lightllm.simulation.cost import StepCost
from lightllm.simulation.trace import Trace


def seconds_per_request(trace: Trace, cost: StepCost, *, pool_tokens: int, rows: int) -> float:
    """Device time that a request of the trace takes on average where the pool is always full of requests.

    A request of p prompt and d output tokens computes p + d of them, reads its context d times, and takes its share
    of the fixed cost of d steps, as one of as many requests as the pool holds at a time:

        requests = pool / (mean slots held) = pool * E[d] / E[d * (p + d / 2)]
    """
    prompt, output = trace.prompt.astype(np.float64), trace.output.astype(np.float64)
    slot_steps = output * (prompt + output / 2)
    requests = min(rows, pool_tokens * output.mean() / slot_steps.mean())
    computed = cost.of(float((prompt + output).mean()), float(slot_steps.mean()), float((prompt**2).mean()) / 2)
    return computed + cost.fixed_ms / 1000 * (float(output.mean()) / requests - 1)


def arrival_times(
    trace: Trace, load: float, cost: StepCost, *, pool_tokens: int, rows: int, seed: int
) -> NDArray[np.float64]:
    """Times [n] of a Poisson process that asks for `load` times the capacity, in each phase of the trace for itself."""
    gaps = np.random.default_rng([seed, 1]).exponential(size=len(trace))
    for phase in np.unique(trace.phase):
        chosen = trace.phase == phase
        gaps[chosen] *= seconds_per_request(trace.part(chosen), cost, pool_tokens=pool_tokens, rows=rows) / load
    return np.cumsum(gaps)
