"""Outcomes of several seeds, put together."""

import msgspec

from lightllm.simulation import report
from lightllm.simulation.outcome import Case, Outcome


def outcome(policy: str, seed: int, goodput: float, load: float = 1.0) -> Outcome:
    case = Case(trace="trace", policy=policy, load=load, clients=0, seed=seed)
    others = {field: 1 for field in Outcome.__struct_fields__ if field not in ("case", "goodput", "series")}
    return msgspec.convert({"case": msgspec.to_builtins(case), "goodput": goodput, **others}, Outcome)


def test_rows_are_means_over_seeds_and_shares_of_the_oracle():
    found = [
        outcome(policy, seed, 1000 * (one + seed)) for policy, one in (("mine", 7), ("oracle", 9)) for seed in (0, 2)
    ]
    lines = report.table(found).splitlines()
    assert lines[0] == "trace, load 1"
    mine, oracle = ([cell.strip() for cell in line.split("|")[1:4]] for line in lines[4:6])
    assert mine == ["mine", "8,000 ± 1,000", "80.0 %"]
    assert oracle == ["oracle", "10,000 ± 1,000", "100.0 %"]


def test_each_demand_has_one_table_in_whatever_order_outcomes_come():
    found = [outcome(policy, 0, 1, load) for policy in ("mine", "other") for load in (0.5, 1.0)]
    text = report.table(found)
    assert text.count("trace, load 0.5") == text.count("trace, load 1") == 1
    assert text.count("| mine ") == 2


def test_a_single_seed_has_no_error():
    assert report.mean_and_error([5.0]) == (5.0, 0.0)
    assert report.mean_and_error([4.0, 6.0]) == (5.0, 1.0)
