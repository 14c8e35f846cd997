# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Weights of 6 bits: each matrix becomes floats as wide as tokens before the library multiplies.

Suffixes: O outputs, I inputs of a tile.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, why_not

OUTPUTS, INPUTS = 16, 512


@triton.jit
def floats_of_6_bits(upper, lower, input_I, KIND: tl.constexpr):
    """Numbers of E3M2 at some inputs, from the bytes in which they are: see ops.fp6."""
    code = ((upper.to(tl.int32) >> (input_I % 2 * 4)) & 15) << 2 | (lower.to(tl.int32) >> (input_I % 4 * 2)) & 3
    half = ((code & 31) << 8 | (code & 32) << 10).to(tl.int16).to(tl.float16, bitcast=True)
    return (half.to(tl.float32) * 4096).to(KIND)


@triton.jit
def _dequantize(
    weight, scale, y, outputs, inputs,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """A tile of the matrix."""
    row_O = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    input_I = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    mask_OI = (row_O < outputs)[:, None] & (input_I < inputs)[None, :]
    byte_O = weight + row_O.to(tl.int64)[:, None] * (inputs // 4 * 3)
    upper_OI = tl.load(byte_O + (input_I // 2)[None, :], mask=mask_OI, other=0)
    lower_OI = tl.load(byte_O + (inputs // 2 + input_I // 4)[None, :], mask=mask_OI, other=0)
    y_OI = floats_of_6_bits(upper_OI, lower_OI, input_I[None, :], tl.float32)
    y_OI *= tl.load(scale + row_O, mask=row_O < outputs, other=0.0)[:, None]
    # What reads the matrix before it is written again was launched before.
    begin(DEPENDENT)
    tl.store(y + row_O.to(tl.int64)[:, None] * inputs + input_I[None, :], y_OI.to(y.dtype.element_ty), mask=mask_OI)


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """ops.fp6.dequantized of a matrix in one pass."""
    outputs, inputs, dependent = len(weight), weight.shape[1] // 3 * 4, depends(weight.device)
    y = torch.empty(outputs, inputs, dtype=dtype, device=weight.device)
    if y.numel():
        _dequantize[(cdiv(outputs, OUTPUTS), cdiv(inputs, INPUTS))](
            weight, scale, y, outputs, inputs, OUTPUTS=OUTPUTS, INPUTS=INPUTS, DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=4,
        )  # fmt: skip
    return y


@ops.linear_fp6.implementation("triton", why_not)
def linear_fp6(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, dequantized(weight, scale, x.dtype), bias)
