"""Llama 1 to 3.1, and what is published as such (Yi): grouped queries, rope, gated MLP.

Sources: arXiv:2302.13971, arXiv:2407.21783; field names follow the checkpoint's config.json.
"""

from dataclasses import dataclass
from typing import Literal

from lightllm.compute.layers.attention import Attention
from lightllm.compute.layers.decoder import Block, CausalLM
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.rope import Rope, RopeConfig
from lightllm.compute.models import config_json

MODEL = "llama"
ARCHITECTURES = ("LlamaForCausalLM",)


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
    attention_bias: bool = False
    mlp_bias: bool = False
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
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
        )
        mlp = GatedMLP(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        return Block(config.hidden_size, config.rms_norm_eps, attention=attention, mlp=mlp)

    return CausalLM(config, rope=rope, blocks=map(block, range(config.num_hidden_layers)))
