# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products with weights that have scales for tiles or groups of inputs.

As in matvec.py a program streams OUTPUTS rows of the matrix past a block of tokens. The sums of each tile are scaled,
and added in float32.
FORMAT "8": E4M3, a scale for each tile of weights and for each TILE inputs of a token. "cut": the same where tiles of
weights begin or end anywhere: they are scaled before they are multiplied. "4": AWQ's packing.
Suffixes: O outputs, I inputs of a tile, T tokens, P packed numbers of eight outputs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import matvec_tiles
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, is_hopper, next_power_of_2, rows_of, why_not
from lightllm.compute.kernels.triton.matvec_hopper import padded
from lightllm.compute.kernels.triton.quantize import quantize_groups, rounded
from lightllm.compute.ops.fp8_block import LARGEST, TILE
from lightllm.compute.ops.per_channel import SMALLEST_SCALE

MOST_TOKENS = 64  # of a block
NARROWEST = 16
LIBRARY = (12, 9)  # CUDA whose library multiplies tiles
ALIGNED = 4  # scales that it reads at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters."""

    tokens: int
    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 4


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


@triton.jit
def _part_of_cut_tiles(
    x_TI, weight_OI, scale, column_tile, tile_O, here_I, mask_OI, is_input_I, lines, LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    """The product of one tile of TILE inputs. Tokens of 16 bits are rounded to 8."""
    KIND: tl.constexpr = x_TI.dtype
    if KIND.primitive_bitwidth == 16:
        numbers_TI, scale_T = rounded(x_TI.to(tl.float32), LARGEST, SMALLEST_SCALE, weight_OI.dtype)
        x_TI = (numbers_TI.to(tl.float32) * scale_T[:, None]).to(KIND)
    tile_I = tl.load(column_tile + here_I, mask=is_input_I, other=0)
    scale_OI = tl.load(scale + (tile_O * lines)[:, None] + tile_I[None, :], mask=mask_OI, other=0.0)
    return tl.dot((weight_OI.to(tl.float32) * scale_OI).to(KIND), x_TI.T, input_precision="ieee")


@triton.jit(do_not_specialize=["tokens"])
def _multiply(
    x, x_scale, weight, scale, second, third, bias, y, tokens, outputs, inputs, x_stride, lines,
    FORMAT: tl.constexpr, BIASED: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr, TILE: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS outputs of TOKENS tokens. lines: scales along the inputs, if not in "4"; there INPUTS are TILE."""
    row_O = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token_T = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    is_row_O, is_token_T = row_O < outputs, token_T < tokens
    packed_P = tl.program_id(0) * (OUTPUTS // 8) + tl.arange(0, OUTPUTS // 8)
    weight_O = weight + row_O.to(tl.int64) * inputs
    x_T = x + token_T.to(tl.int64) * x_stride
    begin(DEPENDENT)
    sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for start in range(0, inputs, INPUTS):
        here_I = start + tl.arange(0, INPUTS)
        is_input_I = here_I < inputs
        x_TI = tl.load(x_T[:, None] + here_I[None, :], mask=is_token_T[:, None] & is_input_I[None, :], other=0.0)
        if FORMAT == "4":
            sum_OT += _part_of_4_bits(
                x_TI, weight, second, scale, third, row_O, packed_P, here_I, is_input_I, outputs,
                INPUTS, OUTPUTS,
            )  # fmt: skip
        else:
            mask_OI = is_row_O[:, None] & is_input_I[None, :]
            weight_OI = tl.load(weight_O[:, None] + here_I[None, :], mask=mask_OI, other=0.0)
            tile_O = tl.load(second + row_O, mask=is_row_O, other=0)
            if FORMAT == "cut":
                sum_OT += _part_of_cut_tiles(
                    x_TI, weight_OI, scale, third, tile_O, here_I, mask_OI, is_input_I, lines, LARGEST, SMALLEST_SCALE,
                )  # fmt: skip
            else:
                scale_O = tl.load(scale + tile_O * lines + start // TILE, mask=is_row_O, other=0.0)
                scale_T = tl.load(x_scale + token_T * lines + start // TILE, mask=is_token_T, other=0.0)
                sum_OT += tl.dot(weight_OI, x_TI.T) * scale_O[:, None] * scale_T[None, :]
    if BIASED:
        sum_OT += tl.load(bias + row_O, mask=is_row_O, other=0.0).to(tl.float32)[:, None]
    at_OT = y + token_T.to(tl.int64)[None, :] * outputs + row_O[:, None]
    tl.store(at_OT, sum_OT.to(y.dtype.element_ty), mask=is_row_O[:, None] & is_token_T[None, :])


def shape_for(tokens: int, form: str, dtype: torch.dtype) -> Shape:
    """Parameters for so many tokens."""
    block = min(max(next_power_of_2(tokens), NARROWEST), MOST_TOKENS)
    if form == "8":
        return Shape(2 * block if tokens > block else block, 32 if tokens <= NARROWEST else 64, TILE)
    if form == "cut":
        return Shape(NARROWEST, 32, TILE, stages=2)
    return Shape(NARROWEST, 32, 64, stages=2) if dtype == torch.float32 else Shape(block, 64, 64)


def multiply(
    form: str,
    x: Tensor,
    x_scale: Tensor | None,
    tensors: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    bias: Tensor | None,
    *,
    outputs: int,
    dtype: torch.dtype,
) -> Tensor:
    """tensors: weight and scale, and what the format adds. x: tokens, or what they were rounded to by x_scale."""
    weight, scale, second, third = tensors
    x = rows_of(x)
    tokens, inputs = x.shape
    y = torch.empty(tokens, outputs, dtype=dtype, device=x.device)
    if tokens and outputs:
        shape, dependent = shape_for(tokens, form, dtype), depends(x.device)
        _multiply[(cdiv(outputs, shape.outputs), cdiv(tokens, shape.tokens))](
            x, x_scale, weight, scale, second, third, bias, y, tokens, outputs, inputs, x.stride(0), scale.shape[-1],
            FORMAT=form, BIASED=bias is not None, TOKENS=shape.tokens,
            OUTPUTS=shape.outputs, INPUTS=shape.inputs, TILE=TILE, LARGEST=LARGEST, SMALLEST_SCALE=SMALLEST_SCALE,
            DEPENDENT=dependent, launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
    return y


@ops.linear_fp8_block.implementation("triton", why_not)
def linear_fp8_block(
    x: Tensor, weight: Tensor, scale: Tensor, row_tile: Tensor, column_tile: Tensor, bias: Tensor | None
) -> Tensor:
    outputs, inputs = weight.shape
    if x.dtype == torch.float32 or inputs != scale.shape[1] * TILE:
        # Ranks share tiles in parts, or they have other sizes.
        tensors = weight, scale, row_tile, column_tile
        return multiply("cut", x, None, tensors, bias, outputs=outputs, dtype=x.dtype)
    if why_not_library(x, weight, scale) is None:
        return _product_by_library(x, weight, scale, bias)
    numbers, x_scale = quantize_groups(x, weight.dtype)
    if matvec_tiles.streams(len(numbers), weight):
        shape = matvec_tiles.shape_for(padded(len(numbers)), outputs, inputs)
        return matvec_tiles.multiply(numbers, x_scale, weight, scale, row_tile, bias, shape, x.dtype)
    tensors = weight, scale, row_tile, None
    return multiply("8", numbers, x_scale, tensors, bias, outputs=outputs, dtype=x.dtype)


def why_not_library(x: Tensor, weight: Tensor, scale: Tensor) -> str | None:
    """The reason the library's product of 8-bit floats with scales of tiles is not used, if there is one."""
    if len(x) <= matvec_tiles.MOST_TOKENS:
        return "few tokens are streamed"
    if x.device.type != "cuda" or not is_hopper(x.device):
        return "it has such a product for compute capability 9 only"
    if tuple(map(int, str(torch.version.cuda).split("."))) < LIBRARY:
        return f"it has such a product from CUDA {LIBRARY[0]}.{LIBRARY[1]} on"
    if x.dtype != torch.bfloat16:
        return f"it multiplies to bfloat16, not {x.dtype}"
    if scale.shape[0] * TILE != len(weight) or scale.shape[1] % ALIGNED:
        return f"it needs whole tiles, {ALIGNED} or a multiple along the inputs, not {tuple(scale.shape)} tiles"
    return None


def _product_by_library(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    tokens = len(x)
    x = F.pad(rows_of(x), (0, 0, 0, -tokens % ALIGNED))
    numbers, x_scale = quantize_groups(x, weight.dtype, turned=True)
    kinds = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
    y = F.scaled_mm(numbers, weight.T, x_scale, kinds[0], scale.T, kinds[1], output_dtype=x.dtype)[:tokens]
    return y if bias is None else y + bias


@ops.linear_awq.implementation("triton", why_not)
def linear_awq(
    x: Tensor, weight: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor, bias: Tensor | None
) -> Tensor:
    tensors = weight, scales, zeros, group_of
    return multiply("4", x, None, tensors, bias, outputs=scales.shape[1], dtype=x.dtype)
