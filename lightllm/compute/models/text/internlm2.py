"""InternLM2 and 2.5: Llama's decoder under other names, its queries, keys and values kept in one matrix.

Sources: arXiv:2403.17297; field names follow the checkpoint's config.json.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from lightllm.compute.layers.attention import Attention
from lightllm.compute.layers.decoder import Block, CausalLM
from lightllm.compute.layers.heads import Labels
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.rope import Rope, RopeConfig
from lightllm.compute.models import config_json

MODEL = "internlm2"
ARCHITECTURES = ("InternLM2ForCausalLM",)
NAMES = {
    "embed_tokens": "tok_embeddings",
    "input_layernorm": "attention_norm",
    "self_attn": "attention",
    "o_proj": "wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
    "lm_head": "output",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeConfig
    bias: bool = True
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"


def read(raw: config_json.Json) -> Config:
    return config_json.read(
        Config, raw, model=MODEL, rope=config_json.rope(raw, model=MODEL), **config_json.heads(raw, model=MODEL)
    )


def build(config: Config) -> CausalLM:
    rope = Rope(config.rope, config.head_dim)

    def block(layer: int) -> Block:
        attention = Attention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            rope,
            qkv_bias=config.bias,
            output_bias=config.bias,
            qkv_name="wqkv",
        )
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        return Block(config.hidden_size, config.rms_norm_eps, attention=attention, mlp=mlp)

    return CausalLM(
        config,
        rope=rope,
        blocks=map(block, range(config.num_hidden_layers)),
        names=NAMES,
        reward_head=partial(Labels, labels=1, name="v_head"),
    )
