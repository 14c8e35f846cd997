# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products with E4M3 weights that have a scale for each tile of TILE by TILE numbers.

Few tokens are streamed past by matvec_fp8_block.py, many are the library's where it has such a product. The kernel
here serves what is left: as in matvec.py a program streams OUTPUTS rows of the matrix past a block of tokens. The sums
of each tile are scaled, and added in float32.
Suffixes: O outputs, I inputs of a tile, T tokens.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import matvec_fp8_block
from lightllm.compute.kernels.triton.launch import NARROWEST, begin, cdiv, depends, is_hopper, padded, rows_of, why_not
from lightllm.compute.kernels.triton.quantize import quantize_groups, rounded
from lightllm.compute.ops.fp8_block import LARGEST, TILE
from lightllm.compute.ops.per_channel import SMALLEST_SCALE

MOST_TOKENS = 64  # of a block
LIBRARY = (12, 9)  # CUDA whose library multiplies tiles
ALIGNED = 4  # scales that it reads at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters."""

    tokens: int
    outputs: int
    stages: int = 4


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
    x, x_scale, weight, scale, row_tile, column_tile, bias, y, tokens, outputs, inputs, x_stride, lines,
    CUT: tl.constexpr, BIASED: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, TILE: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS outputs of TOKENS tokens. lines: scales along the inputs.

    CUT: tiles begin or end anywhere, so weights are scaled before they are multiplied, and x is tokens; else x was
    rounded, with a scale for each TILE inputs of a token.
    """
    row_O = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    token_T = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    is_row_O, is_token_T = row_O < outputs, token_T < tokens
    weight_O = weight + row_O.to(tl.int64) * inputs
    x_T = x + token_T.to(tl.int64) * x_stride
    begin(DEPENDENT)
    sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for start in range(0, inputs, TILE):
        here_I = start + tl.arange(0, TILE)
        is_input_I = here_I < inputs
        x_TI = tl.load(x_T[:, None] + here_I[None, :], mask=is_token_T[:, None] & is_input_I[None, :], other=0.0)
        mask_OI = is_row_O[:, None] & is_input_I[None, :]
        weight_OI = tl.load(weight_O[:, None] + here_I[None, :], mask=mask_OI, other=0.0)
        tile_O = tl.load(row_tile + row_O, mask=is_row_O, other=0)
        if CUT:
            sum_OT += _part_of_cut_tiles(
                x_TI, weight_OI, scale, column_tile, tile_O, here_I, mask_OI, is_input_I, lines, LARGEST, SMALLEST_SCALE
            )
        else:
            scale_O = tl.load(scale + tile_O * lines + start // TILE, mask=is_row_O, other=0.0)
            scale_T = tl.load(x_scale + token_T * lines + start // TILE, mask=is_token_T, other=0.0)
            sum_OT += tl.dot(weight_OI, x_TI.T) * scale_O[:, None] * scale_T[None, :]
    if BIASED:
        sum_OT += tl.load(bias + row_O, mask=is_row_O, other=0.0).to(tl.float32)[:, None]
    at_OT = y + token_T.to(tl.int64)[None, :] * outputs + row_O[:, None]
    tl.store(at_OT, sum_OT.to(y.dtype.element_ty), mask=is_row_O[:, None] & is_token_T[None, :])


def shape_for(tokens: int, *, is_cut: bool) -> Shape:
    """Parameters for so many tokens."""
    if is_cut:
        return Shape(NARROWEST, 32, stages=2)
    block = min(padded(tokens), MOST_TOKENS)
    return Shape(2 * block if tokens > block else block, 32 if tokens <= NARROWEST else 64)


def multiply(
    x: Tensor,
    x_scale: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    row_tile: Tensor,
    column_tile: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """x: tokens of which tiles begin or end anywhere, or what they were rounded to by x_scale."""
    x = rows_of(x)
    (tokens, inputs), outputs, is_cut = x.shape, len(weight), x_scale is None
    y = torch.empty(tokens, outputs, dtype=dtype, device=x.device)
    if tokens and outputs:
        shape, dependent = shape_for(tokens, is_cut=is_cut), depends(x.device)
        _multiply[(cdiv(outputs, shape.outputs), cdiv(tokens, shape.tokens))](
            x, x_scale, weight, scale, row_tile, column_tile if is_cut else None, bias, y, tokens, outputs, inputs,
            x.stride(0), scale.shape[-1],
            CUT=is_cut, BIASED=bias is not None, TOKENS=shape.tokens, OUTPUTS=shape.outputs, TILE=TILE,
            LARGEST=LARGEST, SMALLEST_SCALE=SMALLEST_SCALE, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4,
            num_stages=shape.stages,
        )  # fmt: skip
    return y


@ops.linear_fp8_block.implementation("triton", why_not)
def linear_fp8_block(
    x: Tensor, weight: Tensor, scale: Tensor, row_tile: Tensor, column_tile: Tensor, bias: Tensor | None
) -> Tensor:
    if x.dtype == torch.float32 or weight.shape[1] != scale.shape[1] * TILE:
        # Ranks share tiles in parts, or they have other sizes.
        return multiply(x, None, weight, scale, row_tile, column_tile, bias, x.dtype)
    if why_not_library(x, weight, scale) is None:
        return _product_by_library(x, weight, scale, bias)
    numbers, x_scale = quantize_groups(x, weight.dtype)
    if matvec_fp8_block.streams(len(numbers), weight):
        shape = matvec_fp8_block.shape_for(padded(len(numbers)), *weight.shape)
        return matvec_fp8_block.multiply(numbers, x_scale, weight, scale, row_tile, bias, shape, x.dtype)
    return multiply(numbers, x_scale, weight, scale, row_tile, column_tile, bias, x.dtype)


def why_not_library(x: Tensor, weight: Tensor, scale: Tensor) -> str | None:
    """The reason the library's product of 8-bit floats with scales of tiles is not used, if there is one."""
    if len(x) <= matvec_fp8_block.MOST_TOKENS:
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
