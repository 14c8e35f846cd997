# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products with weights of 8 bits that have a scale an output.

Where tokens are rounded, 8-bit numbers are multiplied as they are: few tokens by matvec_hopper.py, others by the
library if they are floats, or here. Where they are not, few tokens are multiplied by matvec_w8a16.py; for others
weights become floats as wide as tokens, one matrix at a time, before the library multiplies.
Suffixes: T tokens, O outputs, I inputs.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import matvec_hopper, matvec_w8a16, tuned
from lightllm.compute.kernels.triton.activation import silu_and_mul
from lightllm.compute.kernels.triton.launch import (
    HOPPER,
    begin,
    card,
    cdiv,
    depends,
    is_hopper,
    padded,
    rows_of,
    why_not,
    why_not_hopper,
)
from lightllm.compute.kernels.triton.linear import pays_in_parts
from lightllm.compute.kernels.triton.matvec import MOST_TOKENS
from lightllm.compute.kernels.triton.quantize import quantize_tokens
from lightllm.compute.ops.per_channel import GROUP, in_groups, restored

FEW_NUMBERS = 1 << 22  # of y
MOST_TO_ROUND = 32  # tokens: with more, scaling each group takes as long as rounding apart
NEIGHBOURS = 8  # blocks of tokens that are computed side by side, so that they share matrices in the second cache


@dataclass(frozen=True)
class Shape:
    """Launch parameters."""

    tokens: int
    outputs: int
    inputs: int
    warps: int
    stages: int


@triton.jit(do_not_specialize=["tokens"])
def _multiply(
    x, weight, bias, scale, x_scale, y, tokens, outputs, inputs, weight_stride,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, NEIGHBOURS: tl.constexpr, EVEN: tl.constexpr,
    BIASED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """A block of y = x W^T, scaled by token and output. EVEN: INPUTS divides inputs."""
    token_blocks, output_blocks = tl.cdiv(tokens, TOKENS), tl.cdiv(outputs, OUTPUTS)
    first = tl.program_id(0) // (NEIGHBOURS * output_blocks) * NEIGHBOURS
    neighbours = tl.minimum(token_blocks - first, NEIGHBOURS)
    here = tl.program_id(0) % (NEIGHBOURS * output_blocks)
    token_T = (first + here % neighbours) * TOKENS + tl.arange(0, TOKENS)
    output_O = here // neighbours * OUTPUTS + tl.arange(0, OUTPUTS)
    is_token_T, is_output_O, input_I = token_T < tokens, output_O < outputs, tl.arange(0, INPUTS)
    # What sticks out is computed with what lies at the beginning, and not written.
    x_TI = x + tl.where(is_token_T, token_T, 0).to(tl.int64)[:, None] * inputs + input_I[None, :]
    weight_OI = weight + tl.where(is_output_O, output_O, 0).to(tl.int64)[:, None] * weight_stride + input_I[None, :]
    begin(DEPENDENT)
    sum_TO = tl.zeros([TOKENS, OUTPUTS], tl.int32 if x.dtype.element_ty == tl.int8 else tl.float32)
    for start in range(0, inputs, INPUTS):
        if EVEN:
            numbers_TI, weights_OI = tl.load(x_TI + start), tl.load(weight_OI + start)
        else:
            is_input_I = (start + input_I < inputs)[None, :]
            numbers_TI = tl.load(x_TI + start, mask=is_input_I, other=0.0)
            weights_OI = tl.load(weight_OI + start, mask=is_input_I, other=0.0)
        sum_TO = tl.dot(numbers_TI, weights_OI.T, sum_TO, out_dtype=sum_TO.dtype)
    scale_T = tl.load(x_scale + token_T, mask=is_token_T, other=0.0)
    scale_O = tl.load(scale + output_O, mask=is_output_O, other=0.0)
    y_TO = sum_TO.to(tl.float32) * scale_T[:, None] * scale_O[None, :]
    if BIASED:
        y_TO += tl.load(bias + output_O, mask=is_output_O, other=0.0).to(tl.float32)[None, :]
    to_TO = y + token_T.to(tl.int64)[:, None] * outputs + output_O[None, :]
    tl.store(to_TO, y_TO.to(y.dtype.element_ty), mask=is_token_T[:, None] & is_output_O[None, :])


def shape_for(tokens: int, outputs: int) -> Shape:
    """Source: docs/performance-log.md."""
    if tokens <= 64:
        return Shape(tokens=padded(tokens), outputs=64, inputs=128, warps=4, stages=4)
    if tokens * outputs < FEW_NUMBERS:
        # Smaller blocks, so that all multiprocessors have some.
        return Shape(tokens=128, outputs=128, inputs=128, warps=4, stages=4)
    return Shape(tokens=128, outputs=256, inputs=128, warps=8, stages=3)


def multiply(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    shape: Shape | None = None,
) -> Tensor:
    """x [tokens, inputs] and weight of 8 bits with their scales -> [tokens, outputs] of dtype."""
    (tokens, inputs), outputs = x.shape, len(weight)
    y = torch.empty(tokens, outputs, dtype=dtype, device=x.device)
    shape, dependent = shape or shape_for(tokens, outputs), depends(x.device)
    if tokens:
        _multiply[(cdiv(tokens, shape.tokens) * cdiv(outputs, shape.outputs),)](
            x, weight, bias, scale, x_scale, y, tokens, outputs, inputs, weight.stride(0),
            TOKENS=shape.tokens, OUTPUTS=shape.outputs, INPUTS=shape.inputs, NEIGHBOURS=NEIGHBOURS,
            EVEN=inputs % shape.inputs == 0, BIASED=bias is not None, DEPENDENT=dependent, launch_pdl=dependent,
            num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
    return y


@ops.linear_per_channel.implementation("triton", why_not)
def linear_per_channel(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, rounds: bool) -> Tensor:
    return _product(x, weight, scale, bias, rounds=rounds, gated=False)


@ops.gated_linear_per_channel.implementation("triton", why_not)
def gated_linear_per_channel(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, rounds: bool) -> Tensor:
    return _product(x, weight, scale, bias, rounds=rounds, gated=True)


@ops.linear_of_rounded.implementation("triton", why_not)
def linear_of_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return _product_of_rounded(numbers, x_scale, weight, scale, bias, dtype, gated=False)


@ops.gated_linear_of_rounded.implementation("triton", why_not)
def gated_linear_of_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return _product_of_rounded(numbers, x_scale, weight, scale, bias, dtype, gated=True)


def _product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, rounds: bool, gated: bool) -> Tensor:
    if not rounds or x.dtype == torch.float32:
        return _product_of_floats(x, weight, scale, bias, gated=gated)
    return _product_of_rounded(*quantize_tokens(x, weight.dtype), weight, scale, bias, x.dtype, gated=gated)


def _product_of_floats(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, *, gated: bool) -> Tensor:
    x = rows_of(x)
    if matvec_w8a16.why_not(x, weight) is None:
        at_once = min(padded(len(x)), matvec_w8a16.TOKENS_AT_ONCE)
        shape = matvec_w8a16.shape_for(at_once, *weight.shape, gated=gated)
        return matvec_w8a16.multiply(x, weight, scale, bias, shape, gated=gated)
    y = F.linear(x, matvec_w8a16.dequantized(weight, scale, x.dtype), bias)
    return silu_and_mul(y) if gated else y


def _product_of_rounded(
    numbers: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    *,
    gated: bool,
) -> Tensor:
    if _streams(numbers, weight):
        shape, scales = _shape_for(numbers, x_scale, weight, gated=gated), (x_scale, scale)
        return matvec_hopper.multiply(numbers, weight, bias, shape, gated=gated, scales=scales, dtype=dtype)
    if x_scale.ndim == 2:
        return F.linear(restored(numbers, x_scale, dtype), matvec_w8a16.dequantized(weight, scale, dtype), bias)
    if why_not_library(numbers, weight, dtype) is None:
        # Its scales are matrices of one column and one row.
        y = torch._scaled_mm(
            numbers, weight.T, x_scale[:, None], scale[None], bias, out_dtype=dtype, use_fast_accum=True
        )
    else:
        y = multiply(numbers, x_scale, weight, scale, bias, dtype)
    return silu_and_mul(y) if gated else y


@ops.linear_per_channel_in_parts.implementation("triton", why_not_hopper, pays=pays_in_parts)
def linear_per_channel_in_parts(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        numbers, x_scale = quantize_tokens(x, weight.dtype)
        if _streams(numbers, weight):
            shape, scales = _shape(numbers, weight, gated=False), (x_scale, scale)
            return matvec_hopper.multiply(numbers, weight, None, shape, scales=scales, in_parts=True)
    return linear_per_channel(x, weight, scale, None, True)[None].float()


@ops.linear_of_rounded_in_parts.implementation("triton", why_not_hopper)
def linear_of_rounded_in_parts(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype
) -> Tensor:
    if not _streams(numbers, weight):
        return linear_of_rounded(numbers, x_scale, weight, scale, None, dtype)[None].float()
    shape = _shape_for(numbers, x_scale, weight, gated=False)
    return matvec_hopper.multiply(numbers, weight, None, shape, scales=(x_scale, scale), in_parts=True)


def pays_to_round(tokens: int, width: int) -> bool:
    """Where decode steps were measured to be faster. Source: docs/performance-log.md."""
    return 0 < tokens <= MOST_TO_ROUND and width % GROUP == 0


@ops.gated_linear_rounded.implementation("triton", why_not_hopper, pays=pays_to_round)
def gated_linear_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if _streams(numbers, weight):
        shape = replace(_shape(numbers, weight, gated=True), warps=GROUP // matvec_hopper.ROWS_OF_A_WARP)
        return matvec_hopper.multiply_rounded(numbers, weight, bias, shape, scales=(x_scale, scale))
    return in_groups(gated_linear_of_rounded(numbers, x_scale, weight, scale, bias, dtype), weight.dtype)


def _shape_for(numbers: Tensor, x_scale: Tensor, weight: Tensor, *, gated: bool) -> matvec_hopper.Shape:
    shape = _shape(numbers, weight, gated=gated)
    return shape if x_scale.ndim == 1 else replace(shape, halves=1)


def _shape(numbers: Tensor, weight: Tensor, *, gated: bool) -> matvec_hopper.Shape:
    sizes = (padded(len(numbers)), *weight.shape)
    default = matvec_hopper.shape_of_8_bits(*sizes, gated=gated)
    op = "gated_linear_per_channel" if gated else "linear_per_channel"
    return tuned.shape(numbers.device, op, matvec_hopper.Shape, sizes, default) or default


def _streams(x: Tensor, weight: Tensor) -> bool:
    """Whether tokens are few enough for matvec_hopper."""
    few = 0 < len(x) <= MOST_TOKENS
    return few and is_hopper(x.device) and matvec_hopper.why_not(x, weight) is None


def why_not_library(x: Tensor, weight: Tensor, dtype: torch.dtype) -> str | None:
    """The reason the library's product of 8-bit floats with two kinds of scales is not used, if there is one."""
    if x.device.type != "cuda" or card(x.device).capability < HOPPER:
        return "it needs compute capability 9.0"
    if weight.dtype != torch.float8_e4m3fn or dtype != torch.bfloat16:
        return f"it multiplies E4M3 to bfloat16, not {weight.dtype} to {dtype}"
    if not len(x) or weight.shape[0] % 16 or weight.shape[1] % 16:
        return f"it needs tokens, and sizes that 16 divides, not {len(x)} and {tuple(weight.shape)}"
    return None
