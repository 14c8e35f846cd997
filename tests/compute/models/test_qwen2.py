import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

VARIANTS = {
    "plain": {"rope_theta": 1e6},
    "tied": {"tie_word_embeddings": True},
    "windows": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = Qwen2Config(**SIZES | VARIANTS[request.param])
    return make(Qwen2ForCausalLM(config), tmp_path_factory.mktemp("qwen2"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)
