"""A quantized checkpoint computes what transformers computes with the dequantized one, on any number of ranks."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from tests.compute.models.twins import SIZES, check, check_ranks, make
from tests.compute.quant.formats import CONFIGS, write

DEEPSEEK = SIZES | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
EXPERTS = {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
MODELS = {
    "llama_with_biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES | EXPERTS)),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**DEEPSEEK)),
}


@pytest.fixture(scope="module", params=MODELS)
def plain(request, tmp_path_factory):
    return make(MODELS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=CONFIGS)
def twin(request, plain, tmp_path_factory):
    quantized, meant = (tmp_path_factory.mktemp(name) for name in ("quantized", "meant"))
    write(plain.directory, quantized, meant, form=request.param)
    model = AutoModelForCausalLM.from_pretrained(meant).eval()
    with torch.inference_mode():
        expected = [model(tokens[None]).logits[0] for tokens in plain.sequences]
    return replace(plain, directory=quantized, expected=expected)


def test_matches_the_dequantized_model(twin):
    check(twin, "chunked")


def test_parallel_matches_the_dequantized_model(twin):
    check_ranks(twin, 2)
