# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Activations rounded to 8 bits, with a scale for each group of inputs or for each token.

Suffixes: G groups, I inputs of a group or of a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, next_power_of_2, rows_of
from lightllm.compute.ops.fp8_block import TILE
from lightllm.compute.ops.per_channel import LARGEST, SMALLEST_SCALE

GROUPS = 16  # of a program


@triton.jit
def rounded(x_GI, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, KIND: tl.constexpr):
    """Groups along the last axis in numbers of KIND, E4M3 or whole ones, and the scale of each."""
    scale_G = tl.maximum(tl.max(tl.abs(x_GI), axis=1) / LARGEST, SMALLEST_SCALE)
    y_GI = x_GI / scale_G[:, None]
    if tl.int8 == KIND:
        y_GI = libdevice.rint(y_GI)
    return y_GI.to(KIND), scale_G


@triton.jit(do_not_specialize=["token_stride", "group_stride"])
def _quantize_groups(
    x, y, scale, inputs, groups, x_stride, token_stride, group_stride,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    group_G = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    input_GI = group_G[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    begin(DEPENDENT)
    x_GI = tl.load(x + token * x_stride + input_GI, mask=input_GI < inputs, other=0.0).to(tl.float32)
    y_GI, scale_G = rounded(x_GI, LARGEST, SMALLEST_SCALE, y.dtype.element_ty)
    tl.store(y + token * inputs + input_GI, y_GI, mask=input_GI < inputs)
    tl.store(scale + token * token_stride + group_G * group_stride, scale_G, mask=group_G < groups)


def quantize_groups(x: Tensor, kind: torch.dtype, *, turned: bool = False) -> tuple[Tensor, Tensor]:
    """x [tokens, inputs] -> 8-bit numbers [tokens, inputs] and scales [tokens, groups of TILE inputs] float32.

    turned: scales of a group lie next to one another, instead of those of a token.
    """
    x = rows_of(x)
    tokens, inputs = x.shape
    groups = cdiv(inputs, TILE)
    y = torch.empty(tokens, inputs, dtype=kind, device=x.device)
    sizes = (groups, tokens) if turned else (tokens, groups)
    scale = torch.empty(sizes, dtype=torch.float32, device=x.device)
    scale = scale.T if turned else scale
    if tokens:
        dependent = depends(x.device)
        _quantize_groups[(tokens, cdiv(groups, GROUPS))](
            x, y, scale, inputs, groups, x.stride(0), *scale.stride(), GROUP=TILE, GROUPS=GROUPS, LARGEST=LARGEST[kind],
            SMALLEST_SCALE=SMALLEST_SCALE, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4,
        )  # fmt: skip
    return y, scale


@triton.jit
def _quantize_tokens(
    x, y, scale, inputs, x_stride,
    INPUTS: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """A token. INPUTS: a power of two that holds all."""
    token = tl.program_id(0).to(tl.int64)
    input_I = tl.arange(0, INPUTS)
    begin(DEPENDENT)
    x_I = tl.load(x + token * x_stride + input_I, mask=input_I < inputs, other=0.0).to(tl.float32)
    scale_token = tl.maximum(tl.max(tl.abs(x_I), axis=0) / LARGEST, SMALLEST_SCALE)
    y_I = x_I / scale_token
    if y.dtype.element_ty == tl.int8:
        y_I = libdevice.rint(y_I)
    tl.store(y + token * inputs + input_I, y_I.to(y.dtype.element_ty), mask=input_I < inputs)
    tl.store(scale + token, scale_token)


def quantize_tokens(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [tokens, inputs] -> E4M3 or whole numbers [tokens, inputs] and scales [tokens] float32.

    See ops.per_channel.quantized.
    """
    x = rows_of(x)
    tokens, inputs = x.shape
    y = torch.empty(tokens, inputs, dtype=kind, device=x.device)
    scale = torch.empty(tokens, dtype=torch.float32, device=x.device)
    if tokens:
        dependent, padded = depends(x.device), next_power_of_2(inputs)
        _quantize_tokens[(tokens,)](
            x, y, scale, inputs, x.stride(0), INPUTS=padded, LARGEST=LARGEST[kind],
            SMALLEST_SCALE=SMALLEST_SCALE, DEPENDENT=dependent, launch_pdl=dependent,
            num_warps=max(min(padded // 1024, 16), 1),
        )  # fmt: skip
    return y, scale
