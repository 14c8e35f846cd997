"""Mistral: grouped queries over a sliding window (whole context where the checkpoint states none), rope, gated MLP.

Source: arXiv:2310.06825; field names follow the checkpoint's config.json.
"""

from dataclasses import dataclass
from typing import Literal

from lightllm.compute.layers.attention import Attention
from lightllm.compute.layers.decoder import Block, CausalLM
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.rope import Rope, RopeConfig
from lightllm.compute.models import config_json

MODEL = "mistral"
ARCHITECTURES = ("MistralForCausalLM",)


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
    sliding_window: config_json.Positive | None
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
            window=config.sliding_window,
        )
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        return Block(config.hidden_size, config.rms_norm_eps, attention=attention, mlp=mlp)

    return CausalLM(config, rope=rope, blocks=map(block, range(config.num_hidden_layers)))
