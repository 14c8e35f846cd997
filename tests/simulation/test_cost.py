"""The cost of a step: fitted to what was measured, and asked of plans."""

from pathlib import Path

import numpy as np
import pytest

from lightllm.base.errors import ConfigError
from lightllm.base.step import ROW, StepPlan
from lightllm.simulation import cost
from lightllm.simulation.cost import MeasuredStep, StepCost


def plan(sequences: list[tuple[int, int]]) -> StepPlan:
    """A plan of (start, count) sequences."""
    starts, counts = np.array(sequences, dtype=np.int32).T
    nothing = np.empty(0, dtype=np.int32)
    return StepPlan(
        step=1, rows=np.arange(len(starts), dtype=np.int32), starts=starts, counts=counts,
        samples=np.ones(len(starts), dtype=np.bool_), tokens=np.zeros(counts.sum(), dtype=np.int32),
        update_rows=nothing, update_starts=nothing, update_counts=nothing, update_slots=nothing,
        begins=np.zeros(0, dtype=ROW), stop_tokens=nothing, words=nothing,
    )  # fmt: skip


KNOWN = StepCost(fixed_ms=4, token_ms=0.02, context_ms=3e-5, pair_ms=1e-6)


def measured(sequences: int, tokens: int, context: int) -> MeasuredStep:
    seconds = KNOWN.seconds(plan([(context, tokens)] * sequences))
    return MeasuredStep(sequences, tokens, context, seconds * 1000)


def test_cost_counts_tokens_context_and_pairs():
    # 3 tokens after 10 others meet 11, 12 and 13 keys; a decode after 99 meets 100.
    assert KNOWN.seconds(plan([(10, 3), (99, 1)])) == KNOWN.of(tokens=4, context=113, pairs=36 + 100)


def test_fit_finds_the_parameters_that_steps_were_made_from():
    steps = [measured(1, 1, 1000), measured(64, 1, 1000), measured(256, 1, 500), measured(1, 2048, 0)]
    found = cost.fit([*steps, measured(1, 8192, 0), measured(2, 512, 4096)], about="")
    assert found.fixed_ms == pytest.approx(KNOWN.fixed_ms, rel=1e-3)
    assert found.token_ms == pytest.approx(KNOWN.token_ms, rel=1e-3)
    assert found.context_ms == pytest.approx(KNOWN.context_ms, rel=1e-3)
    assert found.pair_ms == pytest.approx(KNOWN.pair_ms, rel=1e-3)


def test_no_fitted_parameter_is_negative():
    steps = [MeasuredStep(n, 1, context, 5 - n * 0.001) for n in (1, 8, 64) for context in (10, 1000)]
    found = cost.fit(steps, about="")
    assert min(found.fixed_ms, found.token_ms, found.context_ms, found.pair_ms) >= 0


def test_too_few_steps_are_refused():
    with pytest.raises(ConfigError, match="3 measured steps cannot tell 4 parameters"):
        cost.fit([measured(1, 1, 10)] * 3, about="")


def test_shipped_cost_is_the_fit_of_the_steps_it_names():
    shipped = cost.load(cost.DEFAULT)
    assert cost.fit(shipped.measured, shipped.about) == shipped
    assert max(map(abs, cost.relative_errors(shipped))) < 0.06


def test_every_shipped_cost_can_be_loaded():
    for path in cost.DEFAULT.parent.iterdir():
        assert cost.load(path).about


def test_a_scaled_decode_step_costs_as_much_as_the_steps_it_stands_for():
    once, often = KNOWN.scaled(8).seconds(plan([(99, 1)])), 8 * KNOWN.seconds(plan([(799, 1)]))
    assert once == pytest.approx(often)


def test_a_file_of_another_form_is_refused(tmp_path: Path):
    path = tmp_path / "cost.json"
    with pytest.raises(ConfigError, match="cost.json"):
        cost.load(path)
    path.write_text('{"fixed_ms": "much"}')
    with pytest.raises(ConfigError, match="see .*h200-llama-8b.json for the form"):
        cost.load(path)
    cost.write(KNOWN, path)
    assert cost.load(path) == KNOWN
