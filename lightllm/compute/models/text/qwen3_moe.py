"""Qwen3 mixture of experts: Qwen3's attention, and in most blocks top-k of many small experts instead of one MLP.

Source: arXiv:2505.09388 section 2; field names follow the checkpoint's config.json.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightllm.compute.layers.attention import Attention
from lightllm.compute.layers.decoder import Block, CausalLM
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.moe import Experts, MixtureOfExperts, SoftmaxRouter
from lightllm.compute.layers.rope import Rope, RopeConfig
from lightllm.compute.models import config_json

MODEL = "qwen3_moe"
ARCHITECTURES = ("Qwen3MoeForCausalLM",)


@dataclass(frozen=True, kw_only=True)
class Config:
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeConfig
    sliding_window: config_json.Positive | None
    decoder_sparse_step: config_json.Positive = 1
    mlp_only_layers: tuple[int, ...] = ()
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"

    def has_experts(self, layer: int) -> bool:
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


def read(raw: config_json.Json) -> Config:
    experts = "num_experts" if "num_experts" in raw else "num_local_experts"  # the second as transformers 5 writes it
    windowed = config_json.value(raw, "use_sliding_window", bool, MODEL, default=False)
    window = config_json.value(raw, "sliding_window", config_json.Positive | None, MODEL, default=None)
    return config_json.read(
        Config,
        raw,
        model=MODEL,
        num_experts=config_json.value(raw, experts, config_json.Positive, MODEL),
        sliding_window=window if windowed else None,
        rope=config_json.rope(raw, model=MODEL),
        **config_json.heads(raw, model=MODEL),
    )


def build(config: Config) -> CausalLM:
    rope = Rope(config.rope, config.head_dim)

    def mlp(layer: int) -> nn.Module:
        if not config.has_experts(layer):
            return GatedMLP(config.hidden_size, config.intermediate_size)
        return MixtureOfExperts(
            SoftmaxRouter(
                config.hidden_size,
                config.num_experts,
                config.num_experts_per_tok,
                renormalize=config.norm_topk_prob,
            ),
            Experts(config.num_experts, config.hidden_size, config.moe_intermediate_size),
        )

    def block(layer: int) -> Block:
        attention = Attention(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            rope,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            window=config.sliding_window,
            head_norm_eps=config.rms_norm_eps,
        )
        return Block(config.hidden_size, config.rms_norm_eps, attention=attention, mlp=mlp(layer))

    return CausalLM(config, rope=rope, blocks=map(block, range(config.num_hidden_layers)))
