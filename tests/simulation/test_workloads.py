"""Drawn workloads have the published lengths."""

import numpy as np
import pytest

from lightllm.base.errors import ConfigError
from lightllm.simulation import workloads


# Published means, prompt and output.
@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [
        ("azure_conversation", 1154.7, 211.1),
        ("azure_code", 2047.8, 27.9),
        ("mooncake", 12035, 343),
        ("sharegpt_o1", 380.6, 2160),
    ],
)
def test_means_are_near_the_published_ones_though_only_quantiles_were_used(name: str, prompt: float, output: float):
    drawn = workloads.draw(name, seed=0, count=100_000)
    assert drawn.prompt.mean() == pytest.approx(prompt, rel=0.15)
    assert drawn.output.mean() == pytest.approx(output, rel=0.17)


def test_quantiles_are_the_published_ones():
    drawn = workloads.SHAREGPT_O1.output.draw(np.random.default_rng(0), 200_000)
    expected = (1954, 3872, 4569, 6451)
    assert np.percentile(drawn, [50, 90, 95, 99]) == pytest.approx(expected, rel=0.02)
    assert drawn.max() == 10935
    assert drawn.min() >= 1


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_the_same_seed_draws_the_same_trace(name: str):
    first, again, other = (workloads.draw(name, seed=seed, count=50) for seed in (1, 1, 2))
    assert first.prompt.tolist() == again.prompt.tolist()
    assert first.output.tolist() == again.output.tolist()
    assert first.output.tolist() != other.output.tolist()
    assert len(first) == 50
    assert (first.output <= first.max_tokens).all()


def test_a_shift_has_two_phases_and_a_mix_has_one():
    shift, mix = (workloads.draw(name, seed=0, count=1000) for name in ("shift", "mix"))
    assert np.median(shift.output[shift.phase == 0]) < 20 < 1500 < np.median(shift.output[shift.phase == 1])
    assert set(mix.phase.tolist()) == {0}
    assert 0.4 < (mix.output < 500).mean() < 0.65


def test_an_unknown_workload_is_refused():
    with pytest.raises(ConfigError, match="no workload is called 'azure'; choose from sharegpt_o1"):
        workloads.draw("azure", seed=0, count=1)
