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


def test_a_lacking_field_is_named():
    with pytest.raises(ConfigError, match=r"config.json lacks rms_norm_eps, which llama needs"):
        registry.load_config({name: value for name, value in LLAMA.items() if name != "rms_norm_eps"})
