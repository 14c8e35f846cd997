from dataclasses import dataclass

import pytest

from lightllm.bench.kernels.search import nearest_first, search


@dataclass(frozen=True)
class Shape:
    tile: int
    warps: int = 4


DEFAULT = Shape(64)


def find(times: dict, *, budget_s: float = 1e9, clock=lambda: 0.0, measured=None):
    """`times` by candidate: seconds of each workload, or an error."""

    def measure(candidate):
        if measured is not None:
            measured.append(candidate)
        value = times[candidate]
        if isinstance(value, Exception):
            raise value
        return value

    candidates = [candidate for candidate in times if candidate != DEFAULT]
    return search(candidates, DEFAULT, measure, budget_s=budget_s, clock=clock)


def test_the_fastest_over_all_workloads_is_found():
    found = find({DEFAULT: [1.0, 1.0], Shape(32): [0.5, 1.9], Shape(128): [0.8, 0.9], None: [2.0, 2.0]})
    assert (found.best, found.tried, found.failed, found.left) == (Shape(128), 3, 0, 0)
    assert found.ratio == pytest.approx(0.72**0.5)


def test_the_library_may_be_fastest():
    assert find({DEFAULT: [1.0], Shape(32): [0.9], None: [0.5]}).best is None


def test_what_is_hardly_faster_does_not_replace_the_default():
    found = find({DEFAULT: [1.0], Shape(32): [0.995]})
    assert (found.best, found.ratio) == (DEFAULT, 1.0)


def test_what_does_not_run_is_passed_over():
    found = find({DEFAULT: [1.0], Shape(32): RuntimeError("out of resource"), Shape(128): [0.5]})
    assert (found.best, found.failed) == (Shape(128), 1)


def test_a_winner_must_win_again():
    calls = []
    times = {DEFAULT: [1.0], Shape(32): [0.5]}

    def measure(candidate):
        calls.append(candidate)
        return [1.0] if len(calls) > 2 else times[candidate]

    found = search([Shape(32)], DEFAULT, measure, budget_s=10, clock=lambda: 0.0)
    assert calls == [DEFAULT, Shape(32), Shape(32), DEFAULT]
    assert found.best == DEFAULT


def test_the_search_ends_when_its_time_is_up():
    times = iter(range(100))
    found = find({DEFAULT: [1.0]} | {Shape(n): [1.0] for n in range(10)}, budget_s=3, clock=lambda: next(times))
    assert (found.tried, found.left) == (3, 7)


def test_candidates_near_the_default_come_first():
    all_of_them = [Shape(32, 8), Shape(64, 8), DEFAULT, None, Shape(32, 4)]
    assert nearest_first(all_of_them, DEFAULT) == [None, Shape(64, 8), Shape(32, 4), Shape(32, 8)]
    assert nearest_first(all_of_them, None) == [Shape(32, 8), Shape(64, 8), DEFAULT, Shape(32, 4)]
