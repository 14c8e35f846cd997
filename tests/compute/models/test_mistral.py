import pytest
from transformers import MistralConfig, MistralForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

VARIANTS = {
    "window": {"sliding_window": 4},
    "whole_context": {"sliding_window": None, "head_dim": 24},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = MistralConfig(**SIZES | VARIANTS[request.param])
    return make(MistralForCausalLM(config), tmp_path_factory.mktemp("mistral"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)
