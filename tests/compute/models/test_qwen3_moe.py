import pytest
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

EXPERTS = {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
VARIANTS = {
    "plain": {"norm_topk_prob": True},
    "raw_shares": {"norm_topk_prob": False, "attention_bias": True, "tie_word_embeddings": True},
    "some_dense": {"mlp_only_layers": [2], "decoder_sparse_step": 2},
    "window": {"use_sliding_window": True, "sliding_window": 5},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    config = Qwen3MoeConfig(**SIZES | EXPERTS | VARIANTS[request.param])
    return make(Qwen3MoeForCausalLM(config), tmp_path_factory.mktemp("qwen3_moe"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("expert_parallel", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks, expert_parallel):
    check_ranks(twin, ranks, expert_parallel=expert_parallel)
