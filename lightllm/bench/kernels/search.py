"""Which of many launch parameters is fastest."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

CLEARLY = 0.99  # of the default's time: what is not below that may be noise

# Seconds of each workload with these parameters; raises what keeps them from running, or from being right.
Measure = Callable[[Any], Sequence[float]]


@dataclass(frozen=True)
class Found:
    """ratio: of the time with `best` to the time with the default, geometric mean of the workloads."""

    best: Any
    ratio: float
    tried: int
    failed: int
    left: int  # not tried, for want of time


def nearest_first(candidates: Iterable[Any], default: Any) -> list[Any]:
    """Dataclasses of one kind, those first that differ from the default in the fewest fields; the default left out.

    None, the library, comes before all.
    """
    others = [candidate for candidate in candidates if candidate != default]
    if default is None:
        return others
    own = astuple(default)

    def distance(one: Any) -> int:
        return 0 if one is None else sum(a != b for a, b in zip(astuple(one), own, strict=True))

    return sorted(others, key=distance)


def search(
    candidates: Sequence[Any],
    default: Any,
    measure: Measure,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[], object] = lambda: None,
) -> Found:
    """The default, unless a candidate is clearly faster, and still is when both are measured once more."""
    end = clock() + budget_s
    base = measure(default)
    best, best_ratio, tried, failed = default, 1.0, 0, 0
    for candidate in candidates:
        if clock() > end:
            break
        tried += 1
        progress()
        try:
            ratio = _ratio(measure(candidate), base)
        except Exception:  # noqa: BLE001 (too many registers, too much shared memory, a wrong result: not this one)
            failed += 1
            continue
        if ratio < best_ratio:
            best, best_ratio = candidate, ratio
    left = len(candidates) - tried
    if best is not default:
        best_ratio = max(best_ratio, _ratio(measure(best), measure(default)))
    if best_ratio > CLEARLY:
        best, best_ratio = default, 1.0
    return Found(best, best_ratio, tried, failed, left)


def _ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    return math.exp(sum(math.log(a / b) for a, b in zip(seconds, base, strict=True)) / len(base))
