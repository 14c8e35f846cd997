import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

VARIANTS = {
    "plain": {"head_dim": 32, "rope_theta": 1e6},
    "tied": {"head_dim": 16, "tie_word_embeddings": True},
    "biased": {"head_dim": 16, "attention_bias": True},
    "windows": {"head_dim": 16, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = Qwen3Config(**SIZES | VARIANTS[request.param])
    return make(Qwen3ForCausalLM(config), tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)
