"""What a config.json asks for is computed, or refused by name."""

import pytest

from lightllm.base.errors import ConfigError
from lightllm.compute.layers.rope import Banded, RopeConfig, Yarn
from lightllm.compute.models import registry
from lightllm.compute.models.config_json import rope

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 3}


def config(**changes):
    return registry.load_config(LLAMA | changes)[1]


def test_older_checkpoints_leave_heads_and_theta_to_be_derived():
    assert (config().head_dim, config().num_key_value_heads, config().rope.theta) == (16, 4, 10_000.0)


def test_null_is_absent():
    assert config(head_dim=None, rope_scaling=None, mlp_bias=None) == config()


def test_what_is_as_usual_may_be_stated():
    assert config(partial_rotary_factor=1.0, hidden_act="silu", rope_theta=10_000) == config()


def test_both_spellings_of_rope_say_the_same():
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
    expected = RopeConfig(5e5, Banded(**scaling), 32)
    for spelling in (
        {"rope_theta": 5e5, "rope_scaling": scaling | {"rope_type": "llama3"}},
        {"rope_theta": 5e5, "rope_scaling": scaling | {"type": "llama3"}},
        {"rope_parameters": scaling | {"rope_type": "llama3", "rope_theta": 5e5}},
    ):
        assert config(**spelling).rope == expected


def test_yarn_counts_as_far_as_it_was_stretched():
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert rope(LLAMA | {"rope_scaling": scaling}, model="llama") == RopeConfig(
        10_000.0, Yarn(factor=4.0, original_max_position_embeddings=32), 128
    )


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1}, (None, None, None)),
        ({"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1}, (None, None, None)),
        ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}, (None, 7, 7)),
        ({"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 28}, (None, None, None)),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 7,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (7, None, 7),
        ),
    ],
)
def test_windows(changes, windows):
    assert registry.load_config(QWEN2 | changes)[1].windows == windows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": {"type": "longrope", "factor": 2}},
            r"rope_scaling type longrope is not supported by llama; supported: linear, dynamic, llama3, yarn",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2, "alpha": 3}}, r"rope_scaling field alpha .* llama"),
        ({"rope_scaling": {"type": "linear"}}, r"lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": "two"}}, r"factor=two .* rope_scaling type linear"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0.5 is not supported by llama; supported: 1.0"),
        ({"hidden_act": "gelu"}, r"hidden_act=gelu is not supported by llama; supported: silu"),
        ({"hidden_size": "64"}, r"hidden_size=64 is not supported by llama"),
        ({"num_key_value_heads": 3}, r"num_attention_heads=4 is no multiple of num_key_value_heads=3"),
        ({"vocab_size": None}, r"vocab_size=None is not supported"),
        ({"max_position_embeddings": None}, r"max_position_embeddings=None is not supported by llama"),
        (
            {"architectures": ["MambaForCausalLM"]},
            r"architecture MambaForCausalLM is not supported; supported: .*Llama",
        ),
        ({"architectures": None, "model_type": "t5"}, r"architecture model_type t5 is not supported"),
    ],
)
def test_refusals_name_what_was_asked(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
QWEN3_MOE = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
}
DEEPSEEK = LLAMA | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 4,
    "topk_group": 2,
}


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (MIXTRAL, {"num_experts_per_tok": 5}, r"cannot choose 5 of 4 experts"),
        (MIXTRAL, {"num_experts_per_tok": 0}, r"cannot choose 0 of 4 experts"),
        (MIXTRAL, {"sliding_window": 0}, r"sliding_window=0 is not supported by mixtral"),
        (QWEN3_MOE, {"decoder_sparse_step": 0}, r"decoder_sparse_step=0 is not supported by qwen3_moe"),
        (DEEPSEEK, {"n_group": 3}, r"cannot choose 3 of 8 experts in 2 of 3 equal groups"),
        (DEEPSEEK, {"n_group": 8}, r"cannot choose 3 of 8 experts in 2 of 8 equal groups"),
        (DEEPSEEK, {"topk_group": 5}, r"cannot choose 3 of 8 experts in 5 of 4 equal groups"),
        (DEEPSEEK, {"num_experts_per_tok": 5}, r"cannot choose 5 of 8 experts in 2 of 4 equal groups"),
    ],
)
def test_mixtures_that_cannot_be_are_named(raw, changes, message):
    registry.build(registry.load_config(raw)[1])
    with pytest.raises(ConfigError, match=message):
        registry.build(registry.load_config(raw | changes)[1])


def test_a_lacking_field_is_named():
    with pytest.raises(ConfigError, match=r"config.json lacks rms_norm_eps, which llama needs"):
        registry.load_config({name: value for name, value in LLAMA.items() if name != "rms_norm_eps"})
