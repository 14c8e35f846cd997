"""What is computed: one declaration per op, with its formula, shapes, reference and test cases."""

from lightllm.compute.ops.activation import silu_and_mul
from lightllm.compute.ops.attention import attend, attend_latent
from lightllm.compute.ops.awq import gated_experts_awq, linear_awq
from lightllm.compute.ops.biases import add_biases
from lightllm.compute.ops.embedding import embedding
from lightllm.compute.ops.experts import gated_experts, route_sigmoid, route_softmax, router_logits
from lightllm.compute.ops.fp6 import gated_experts_fp6, linear_fp6
from lightllm.compute.ops.fp8_block import gated_experts_fp8_block, linear_fp8_block
from lightllm.compute.ops.int4 import gated_linear_int4, linear_int4
from lightllm.compute.ops.joined import gated_linear_of_weighted, linear_add_weigh, linear_rotate_store
from lightllm.compute.ops.kv_formats import (
    attend_latent_quantized,
    attend_quantized,
    norm_rotate_store_latent_quantized,
    norm_rotate_store_quantized,
)
from lightllm.compute.ops.linear import gated_linear, linear, linear_add, logits
from lightllm.compute.ops.masks import allow
from lightllm.compute.ops.norm import add_rms_norm, add_rms_norm_rounded, rms_norm
from lightllm.compute.ops.parts import (
    add_rms_norm_of_parts,
    add_rms_norm_of_parts_rounded,
    linear_in_parts,
    linear_of_rounded_in_parts,
    linear_per_channel_in_parts,
)
from lightllm.compute.ops.penalties import penalize
from lightllm.compute.ops.per_channel import (
    gated_experts_per_channel,
    gated_linear_of_rounded,
    gated_linear_per_channel,
    gated_linear_rounded,
    linear_of_rounded,
    linear_per_channel,
)
from lightllm.compute.ops.rope import norm_rotate_store, norm_rotate_store_latent, rotate_halves, rotate_pairs
from lightllm.compute.ops.sampling import draw, logprobs, most_likely
from lightllm.compute.ops.step import prepare_step
from lightllm.compute.ops.typical import keep_typical

__all__ = [
    "add_biases",
    "add_rms_norm",
    "add_rms_norm_of_parts",
    "add_rms_norm_of_parts_rounded",
    "add_rms_norm_rounded",
    "allow",
    "attend",
    "attend_latent",
    "attend_latent_quantized",
    "attend_quantized",
    "draw",
    "embedding",
    "gated_experts",
    "gated_experts_awq",
    "gated_experts_fp6",
    "gated_experts_fp8_block",
    "gated_experts_per_channel",
    "gated_linear",
    "gated_linear_int4",
    "gated_linear_of_rounded",
    "gated_linear_of_weighted",
    "gated_linear_per_channel",
    "gated_linear_rounded",
    "keep_typical",
    "linear",
    "linear_add",
    "linear_add_weigh",
    "linear_awq",
    "linear_fp6",
    "linear_fp8_block",
    "linear_in_parts",
    "linear_int4",
    "linear_of_rounded",
    "linear_of_rounded_in_parts",
    "linear_per_channel",
    "linear_per_channel_in_parts",
    "linear_rotate_store",
    "logits",
    "logprobs",
    "most_likely",
    "norm_rotate_store",
    "norm_rotate_store_latent",
    "norm_rotate_store_latent_quantized",
    "norm_rotate_store_quantized",
    "penalize",
    "prepare_step",
    "rms_norm",
    "rotate_halves",
    "rotate_pairs",
    "route_sigmoid",
    "route_softmax",
    "router_logits",
    "silu_and_mul",
]
