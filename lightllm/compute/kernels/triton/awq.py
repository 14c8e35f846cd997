# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products with weights in AWQ's packing of 4 bits, for cards and groups that matvec_int4.py does not serve.

As in matvec.py a program streams OUTPUTS rows of the matrix past a block of tokens.
Suffixes: O outputs, I inputs of a tile, T tokens, P packed numbers of eight outputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import NARROWEST, begin, cdiv, depends, padded, rows_of, why_not

MOST_TOKENS = 64  # of a block


@triton.jit
def _numbers_of_4_bits(words_IP, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr):
    """Eight outputs of each number, in order: output i is in bits 4 * ops.awq.NIBBLE[i]."""
    index = tl.arange(0, 8)
    shift = ((index % 2) * 4 + index // 2) * 4
    return tl.reshape((words_IP[:, :, None] >> shift[None, None, :]) & 15, [INPUTS, OUTPUTS])


@triton.jit
def _part_of_4_bits(
    x_TI, weight, zeros, scales, group_of, row_O, packed_P, here_I, is_input_I, outputs,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """The product of one tile. Where all its inputs are of one group, it is scaled afterwards."""
    words = outputs // 8
    is_packed_P, is_row_O = packed_P < words, row_O < outputs
    mask_IP = is_input_I[:, None] & is_packed_P[None, :]
    at_I = here_I.to(tl.int64)
    words_IP = tl.load(weight + at_I[:, None] * words + packed_P[None, :], mask=mask_IP, other=0)
    number_IO = _numbers_of_4_bits(words_IP, INPUTS, OUTPUTS)
    group_I = tl.load(group_of + here_I, mask=is_input_I, other=0).to(tl.int32)
    first = tl.min(tl.where(is_input_I, group_I, 2147483647))
    if first == tl.max(group_I):
        zero_1P = tl.load(zeros + first * words + packed_P, mask=is_packed_P, other=0)[None, :]
        zero_1O = _numbers_of_4_bits(zero_1P, 1, OUTPUTS)
        scale_O = tl.load(scales + first * outputs + row_O, mask=is_row_O, other=0.0)
        weight_IO = (number_IO - zero_1O).to(x_TI.dtype)
        part_OT = tl.dot(weight_IO.T, x_TI.T, input_precision="ieee") * scale_O[:, None]
    else:
        zero_IP = tl.load(zeros + group_I[:, None] * words + packed_P[None, :], mask=mask_IP, other=0)
        scale_at_IO = scales + group_I[:, None] * outputs + row_O[None, :]
        scale_IO = tl.load(scale_at_IO, mask=is_input_I[:, None] & is_row_O[None, :], other=0.0)
        difference_IO = (number_IO - _numbers_of_4_bits(zero_IP, INPUTS, OUTPUTS)).to(tl.float32)
        part_OT = tl.dot((difference_IO * scale_IO).to(x_TI.dtype).T, x_TI.T, input_precision="ieee")
    return part_OT


@triton.jit(do_not_specialize=["tokens"])
def _multiply(
    x, weight, scales, zeros, group_of, bias, y, tokens, outputs, inputs, x_stride,
    BIASED: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS outputs of TOKENS tokens."""
    row_O = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token_T = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    is_row_O, is_token_T = row_O < outputs, token_T < tokens
    packed_P = tl.program_id(0) * (OUTPUTS // 8) + tl.arange(0, OUTPUTS // 8)
    x_T = x + token_T.to(tl.int64) * x_stride
    begin(DEPENDENT)
    sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for start in range(0, inputs, INPUTS):
        here_I = start + tl.arange(0, INPUTS)
        is_input_I = here_I < inputs
        x_TI = tl.load(x_T[:, None] + here_I[None, :], mask=is_token_T[:, None] & is_input_I[None, :], other=0.0)
        sum_OT += _part_of_4_bits(
            x_TI, weight, zeros, scales, group_of, row_O, packed_P, here_I, is_input_I, outputs, INPUTS, OUTPUTS
        )
    if BIASED:
        sum_OT += tl.load(bias + row_O, mask=is_row_O, other=0.0).to(tl.float32)[:, None]
    at_OT = y + token_T.to(tl.int64)[None, :] * outputs + row_O[:, None]
    tl.store(at_OT, sum_OT.to(y.dtype.element_ty), mask=is_row_O[:, None] & is_token_T[None, :])


@ops.linear_awq.implementation("triton", why_not)
def linear_awq(
    x: Tensor, weight: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor, bias: Tensor | None
) -> Tensor:
    x = rows_of(x)
    (tokens, inputs), outputs = x.shape, scales.shape[1]
    y = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    if tokens and outputs:
        is_wide, dependent = x.dtype == torch.float32, depends(x.device)
        block = NARROWEST if is_wide else min(padded(tokens), MOST_TOKENS)
        width = 32 if is_wide else 64
        _multiply[(cdiv(outputs, width), cdiv(tokens, block))](
            x, weight, scales, zeros, group_of, bias, y, tokens, outputs, inputs, x.stride(0),
            BIASED=bias is not None, TOKENS=block, OUTPUTS=width, INPUTS=64, DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=4, num_stages=2 if is_wide else 4,
        )  # fmt: skip
    return y
