import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

VARIANTS = {
    "plain": {},
    "no_groups": {"num_key_value_heads": 4},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "tied": {"tie_word_embeddings": True, "head_dim": 8},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = LlamaConfig(**SIZES | VARIANTS[request.param])
    return make(LlamaForCausalLM(config), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)
