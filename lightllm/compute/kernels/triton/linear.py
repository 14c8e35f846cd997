"""Products with a matrix of 16 or 32 bits: which kernel computes them, or the library. docs/kernels.md has a table.

Few tokens are streamed past by matvec_hopper.py or matvec.py; more of them are the library's, but where gates, a norm
or a sum come with the product.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import (
    matmul_gated_hopper,
    matmul_hopper,
    matmul_streamed,
    matvec,
    matvec_hopper,
    tuned,
)
from lightllm.compute.kernels.triton.activation import silu_and_mul
from lightllm.compute.kernels.triton.launch import is_hopper, padded, why_not, why_not_hopper

FEWEST_IN_PARTS = 17  # with fewer tokens a norm has too few programs to add up parts
FEWEST_ADDED = 513  # tokens from which on the library adds products to what they are to be added to


@ops.linear.implementation("triton", why_not)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = _few(x, weight, bias, gated=False)
    return F.linear(x, weight, bias) if y is None else y


@ops.gated_linear.implementation("triton", why_not)
def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if (y := _few(x, weight, bias, gated=True)) is not None:
        return y
    if bias is None and is_hopper(x.device) and matmul_hopper.why_not_gated(x, weight) is None:
        return _gate_many(x, weight)
    return silu_and_mul(F.linear(x, weight, bias))


def _gate_many(x: Tensor, weight: Tensor) -> Tensor:
    """By one of the kernels for many tokens. Which one depends on their number, so at start both are compiled."""
    by_three = matmul_gated_hopper.is_faster(x, weight)
    if by_three and x.is_meta:
        matmul_hopper.multiply_gated(x, weight)
    return (matmul_gated_hopper if by_three else matmul_hopper).multiply_gated(x, weight)


def pays_in_parts(tokens: int, outputs: int) -> bool:
    """Where decode steps were measured to be faster. Source: docs/performance-log.md."""
    return FEWEST_IN_PARTS <= tokens <= matvec.MOST_TOKENS and outputs >= 4096


def _pays_in_parts(tokens: int, outputs: int, inputs: int) -> bool:
    """The same for 16 bits."""
    return pays_in_parts(tokens, outputs) or matmul_streamed.pays_in_parts(tokens, outputs, inputs)


@ops.linear_in_parts.implementation("triton", why_not_hopper, pays=_pays_in_parts)
def linear_in_parts(x: Tensor, weight: Tensor) -> Tensor:
    if (
        matvec.MOST_TOKENS < len(x) <= matmul_streamed.TOKENS.value
        and matmul_streamed.why_not_in_parts(x, weight) is None
    ):
        return matmul_streamed.multiply_in_parts(x, weight)
    streams = 0 < len(x) <= matvec.MOST_TOKENS and is_hopper(x.device) and matvec_hopper.why_not(x, weight) is None
    shape = _shape(matvec_hopper, x, weight, gated=False) if streams else None
    if shape is None:
        return F.linear(x, weight)[None].float()
    return matvec_hopper.multiply(x, weight, None, shape, in_parts=True)


@ops.logits.implementation("triton", why_not)
def logits(x: Tensor, weight: Tensor) -> Tensor:
    y = _few(x, weight, None, gated=False, dtype=torch.float32)
    if y is not None:
        return y
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)
    return F.linear(x.float(), weight.float())


@ops.linear_add.implementation("triton", why_not, pays=lambda tokens: tokens >= FEWEST_ADDED)
def linear_add(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    return residual.addmm_(x, weight.T)


def _few(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, gated: bool, dtype: torch.dtype | None = None
) -> Tensor | None:
    """The product by one of the kernels for few tokens, or None where the library is faster. dtype: if not x's."""
    if not 0 < len(x) <= matvec.MOST_TOKENS or x.dtype == torch.float32 or weight.stride(1) != 1:
        return None
    x = x if x.stride(1) == 1 else x.contiguous()
    streams = is_hopper(x.device) and matvec_hopper.why_not(x, weight) is None
    module = matvec_hopper if streams else matvec
    shape = _shape(module, x, weight, gated=gated)
    return None if shape is None else module.multiply(x, weight, bias, shape, gated=gated, dtype=dtype)


def _shape(module: Any, x: Tensor, weight: Tensor, *, gated: bool) -> Any:
    """Launch parameters of a module with a kernel for few tokens, or None where the library is faster."""
    tokens, op = padded(len(x)), "gated_linear" if gated else "linear"
    default = module.shape_for(tokens, *weight.shape, gated=gated)
    return tuned.shape(x.device, op, module.Shape, (tokens, *weight.shape), default)
