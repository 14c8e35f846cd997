import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.compute.models.twins import CHUNKED, VOCABULARY, WHOLE, check, check_ranks, make

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
}
VARIANTS = {
    "plain": {"rope_theta": 1e6},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True},
    "windows": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = Qwen3Config(**SIZES, **VARIANTS[request.param])
    return make(Qwen3ForCausalLM(config), tmp_path_factory.mktemp("qwen3"))


@pytest.mark.parametrize("steps", [WHOLE, CHUNKED], ids=["whole", "chunked"])
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)
