import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from lightllm.base.errors import ConfigError
from lightllm.compute.models import registry
from tests.compute.driver import load
from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

COMMON = SIZES | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
}
VARIANTS = {
    "v2_lite": (2, {"q_lora_rank": None, "topk_method": "greedy"}),
    "v2": (
        2,
        {
            "q_lora_rank": 20,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 16.0,
            "rope_parameters": YARN,
            "max_position_embeddings": 32,
        },
    ),
    "v3": (
        3,
        {
            "q_lora_rank": 20,
            "n_group": 4,
            "topk_group": 2,
            "rope_parameters": YARN,
            "max_position_embeddings": 32,
            "attention_bias": True,
        },
    ),
    "v3_without_groups": (3, {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "norm_topk_prob": False}),
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    version, changes = VARIANTS[request.param]
    config, model = {
        2: (DeepseekV2Config, DeepseekV2ForCausalLM),
        3: (DeepseekV3Config, DeepseekV3ForCausalLM),
    }[version]
    return make(model(config(**COMMON | changes)), tmp_path_factory.mktemp("deepseek"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("expert_parallel", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks, expert_parallel):
    check_ranks(twin, ranks, expert_parallel=expert_parallel)


def test_what_is_kept_of_a_token_is_one_latent(twin):
    assert [state.parts["latents"].shape for state in load(twin.directory).states()] == [(24 + 8,)] * 3


@pytest.mark.parametrize("twin", ["v2", "v3"], indirect=True)
def test_layers_that_predict_further_tokens_are_left_out(twin, tmp_path):
    shutil.copytree(twin.directory, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.layers.3.eh_proj.weight": torch.ones(2, 2)}, file)
    if json.loads((tmp_path / "config.json").read_text()).get("num_nextn_predict_layers"):
        check(replace(twin, directory=tmp_path))
    else:
        with pytest.raises(ConfigError, match=r"1 unused: model\.layers\.3\.eh_proj\.weight"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk_method": "noaux_tc"}, r"topk_method noaux_tc with scoring_func softmax"),
        ({"scoring_func": "sigmoid"}, r"topk_method greedy with scoring_func sigmoid"),
        ({"topk_method": "random"}, r"topk_method=random is not supported by deepseek; supported: greedy, group"),
        ({"norm_topk_prob": True}, r"norm_topk_prob=true with scoring_func softmax"),
        ({"moe_layer_freq": 2}, r"moe_layer_freq=2 is not supported by deepseek; supported: 1"),
        ({"rope_interleave": False}, r"rope_interleave=False is not supported by deepseek; supported: True"),
    ],
)
def test_refusals_name_what_was_asked(changes, message):
    raw = {"architectures": ["DeepseekV2ForCausalLM"], "max_position_embeddings": 32, "rms_norm_eps": 1e-6}
    with pytest.raises(ConfigError, match=message):
        registry.load_config(COMMON | {"q_lora_rank": None} | raw | changes)
