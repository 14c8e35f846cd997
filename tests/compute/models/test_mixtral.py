import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

VARIANTS = {
    "window": {"sliding_window": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "whole_context": {"sliding_window": None, "head_dim": 24, "num_local_experts": 8, "num_experts_per_tok": 3},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = MixtralConfig(**SIZES | VARIANTS[request.param])
    return make(MixtralForCausalLM(config), tmp_path_factory.mktemp("mixtral"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("expert_parallel", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks, expert_parallel):
    check_ranks(twin, ranks, expert_parallel=expert_parallel)
