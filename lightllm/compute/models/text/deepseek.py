"""DeepSeek V2 and V3 (and R1, V3.1): latent attention; routed and shared experts after a few dense blocks.

Sources: arXiv:2405.04434, arXiv:2412.19437; field names follow the checkpoint's config.json.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightllm.base.errors import ConfigError
from lightllm.compute.layers.decoder import Block, CausalLM
from lightllm.compute.layers.latent_attention import LatentAttention
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.moe import Experts, MixtureOfExperts, SigmoidRouter, SoftmaxRouter
from lightllm.compute.layers.rope import Rope, RopeConfig, Yarn
from lightllm.compute.models import config_json

MODEL = "deepseek"
V2, V3 = "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"
ARCHITECTURES = (V2, V3)


@dataclass(frozen=True, kw_only=True)
class Config:
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    first_k_dense_replace: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: RopeConfig
    scoring_func: Literal["softmax", "sigmoid"]
    topk_method: Literal["greedy", "group_limited_greedy", "noaux_tc"]
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    n_shared_experts: int | None = None
    n_group: int | None = None
    topk_group: int | None = None
    moe_layer_freq: Literal[1] = 1
    num_nextn_predict_layers: int = 0
    attention_bias: bool = False
    mlp_bias: Literal[False] = False
    rope_interleave: Literal[True] = True
    tie_word_embeddings: bool = False
    hidden_act: Literal["silu"] = "silu"

    @property
    def groups(self) -> tuple[int, int]:
        """Into how many groups the experts fall, and how many of these a token may choose from."""
        return (1, 1) if self.topk_method == "greedy" else (self.n_group or 1, self.topk_group or 1)

    @property
    def scale(self) -> float:
        """1 / sqrt(query dim); yarn's second magnitude, which cosines and sines lack, comes in squared."""
        scale = (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5
        scaling = self.rope.scaling
        if isinstance(scaling, Yarn) and scaling.mscale_all_dim:
            scale *= scaling.growth(scaling.mscale_all_dim) ** 2
        return scale


def read(raw: config_json.Json) -> Config:
    older = V2 in raw["architectures"]
    defaults = {"scoring_func": "softmax" if older else "sigmoid", "topk_method": "greedy" if older else "noaux_tc"}
    stated = {name: value for name, value in raw.items() if value is not None}
    config = config_json.read(
        Config, {**raw, **defaults, **stated}, model=MODEL, rope=config_json.rope(raw, model=MODEL)
    )
    if (config.scoring_func == "sigmoid") != (config.topk_method == "noaux_tc"):
        raise ConfigError(f"topk_method {config.topk_method} with scoring_func {config.scoring_func} is not supported")
    if config.scoring_func == "softmax" and config.norm_topk_prob:
        raise ConfigError(
            "norm_topk_prob=true with scoring_func softmax is not supported by deepseek; supported: false"
        )
    return config


def build(config: Config) -> CausalLM:
    rope = Rope(config.rope, config.qk_rope_head_dim)

    def mlp(layer: int) -> nn.Module:
        if layer < config.first_k_dense_replace:
            return GatedMLP(config.hidden_size, config.intermediate_size)
        router = SigmoidRouter if config.scoring_func == "sigmoid" else SoftmaxRouter
        groups, top_groups = config.groups
        shared = config.n_shared_experts
        return MixtureOfExperts(
            router(
                config.hidden_size,
                config.n_routed_experts,
                config.num_experts_per_tok,
                groups=groups,
                top_groups=top_groups,
                renormalize=config.norm_topk_prob,
                scale=config.routed_scaling_factor,
            ),
            Experts(config.n_routed_experts, config.hidden_size, config.moe_intermediate_size),
            GatedMLP(config.hidden_size, config.moe_intermediate_size * shared) if shared else None,
        )

    def block(layer: int) -> Block:
        attention = LatentAttention(
            config.hidden_size,
            config.num_attention_heads,
            rope,
            key_dim=config.qk_nope_head_dim,
            value_dim=config.v_head_dim,
            latent=config.kv_lora_rank,
            query_rank=config.q_lora_rank,
            scale=config.scale,
            bias=config.attention_bias,
        )
        return Block(config.hidden_size, config.rms_norm_eps, attention=attention, mlp=mlp(layer))

    # Layers past the last are for predicting several tokens at once.
    layers = config.num_hidden_layers
    extra = "|".join(str(layer) for layer in range(layers, layers + config.num_nextn_predict_layers))
    unused = rf"^model\.layers\.({extra})\." if extra else None
    return CausalLM(config, rope=rope, blocks=map(block, range(layers)), unused=unused)
