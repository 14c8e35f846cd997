# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Mixtures of experts: pairs of tokens and experts sorted, two products of each expert with its rows, and their sum.

As in matvec.py the matrix is the tall operand of the matrix unit and the rows its narrow one: an expert has few rows
in most steps, and then the cost is reading the matrices. A program takes a block of an expert's rows and OUTPUTS of its
matrix; the first product takes gates and what they multiply together, so that only their product is written.

Numbers (FORMAT): "plain": of one type. "fp8": matrices and rows in 8 bits, multiplied as they are; each 128 inputs are
summed by themselves, then scaled. "wide": matrices of 8 bits scaled before they are multiplied. "awq": of 4 bits.
Suffixes: O outputs of a tile, I inputs of a tile, R rows.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.expert_rows import ENTRY, Rows, combine, sort
from lightllm.compute.kernels.triton.launch import begin, depends, why_not
from lightllm.compute.kernels.triton.quantize import quantize_groups, rounded
from lightllm.compute.ops.fp8_block import LARGEST, SMALLEST_SCALE, TILE

MOST_TOKENS = 1024  # what parameters depend on: more tokens have those of this many
NARROWEST = 16


@dataclass(frozen=True)
class Shape:
    """Launch parameters. rows: of a block; the others are of the first product, and of the second one (down_*)."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int
    down_outputs: int
    down_inputs: int
    down_warps: int
    down_stages: int


@dataclass(frozen=True)
class Matrices:
    """Of all experts here: weights [experts, ...], and what the format adds, in the order of the op's arguments."""

    format: str
    weight: Tensor
    outputs: int
    inputs: int
    more: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def groups(self) -> int:
        """Scales along the inputs."""
        if self.more is None:
            return 1
        return self.more[0].shape[1 if self.format == "awq" else 2]

    @property
    def lines(self) -> int:
        """Scales along the outputs."""
        return 1 if self.more is None else self.more[0].shape[1]


@triton.jit
def _awq_tile(
    weight, zeros, scales, group_of, row_O, input_I, mask_IO, is_input_I, outputs, inputs, groups, expert,
    KIND: tl.constexpr,
):  # fmt: skip
    # Eight neighbouring outputs share a number; the order of their four bits is ops.awq.NIBBLE.
    shift_O = ((row_O % 2) * 4 + (row_O % 8) // 2) * 4
    line_I = expert * groups + tl.load(group_of + input_I, mask=is_input_I, other=0)
    weight_I = weight + (expert.to(tl.int64) * inputs + input_I) * (outputs // 8)
    packed_IO = tl.load(weight_I[:, None] + (row_O // 8)[None, :], mask=mask_IO, other=0)
    zeros_IO = tl.load(zeros + (line_I * (outputs // 8))[:, None] + (row_O // 8)[None, :], mask=mask_IO, other=0)
    scale_IO = tl.load(scales + (line_I * outputs)[:, None] + row_O[None, :], mask=mask_IO, other=0.0)
    number_IO = ((packed_IO >> shift_O[None, :]) & 15) - ((zeros_IO >> shift_O[None, :]) & 15)
    return (number_IO.to(tl.float32) * scale_IO).to(KIND).T


@triton.jit
def _scales_of(scale, row_tile, row_O, is_row_O, lines, groups, expert):
    """Where the scales of some rows begin, each with `groups` along the inputs."""
    tile_O = tl.load(row_tile + row_O, mask=is_row_O, other=0).to(tl.int32)
    return scale + (expert * lines + tile_O) * groups


@triton.jit
def _tile(
    weight, first, second, third, row_O, input_I, is_row_O, is_input_I, outputs, inputs, lines, groups, expert,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """A tile of an expert's matrix, in numbers of KIND. first, second, third: what a format adds."""
    if FORMAT == "awq":
        mask_IO = is_input_I[:, None] & is_row_O[None, :]
        return _awq_tile(
            weight, first, second, third, row_O, input_I, mask_IO, is_input_I, outputs, inputs, groups, expert, KIND
        )
    weight_O = weight + (expert.to(tl.int64) * outputs + row_O) * inputs
    mask_OI = is_row_O[:, None] & is_input_I[None, :]
    if EVEN:
        weight_OI = tl.load(weight_O[:, None] + input_I[None, :])
    else:
        weight_OI = tl.load(weight_O[:, None] + input_I[None, :], mask=mask_OI, other=0.0)
    if FORMAT == "wide":
        scale_O = _scales_of(first, second, row_O, is_row_O, lines, groups, expert)
        tile_I = tl.load(third + input_I, mask=is_input_I, other=0)
        scale_OI = tl.load(scale_O[:, None] + tile_I[None, :], mask=mask_OI, other=0.0)
        weight_OI = (weight_OI.to(tl.float32) * scale_OI).to(KIND)
    return weight_OI


@triton.jit
def _rows(
    x_R, input_I, is_row_R, is_input_I, FORMAT: tl.constexpr, EVEN: tl.constexpr, KIND: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    """Some inputs of some rows."""
    mask_RI = is_row_R[:, None]
    if not EVEN:
        mask_RI = is_row_R[:, None] & is_input_I[None, :]
    x_RI = tl.load(x_R[:, None] + input_I[None, :], mask=mask_RI, other=0.0)
    if FORMAT == "wide" and KIND.primitive_bitwidth == 16:
        x_RI, scale_R = rounded(x_RI.to(tl.float32), LARGEST, SMALLEST_SCALE)
        x_RI = (x_RI.to(tl.float32) * scale_R[:, None]).to(KIND)
    return x_RI


@triton.jit
def _add(sum_OR, weight_OI, x_RI, scale_O, scale_R, is_row_O, FORMAT: tl.constexpr, PRECISION: tl.constexpr):
    """The sum with one more tile's product."""
    if FORMAT == "fp8":
        part_OR = tl.dot(weight_OI, x_RI.T) * scale_R[None, :]
        return sum_OR + part_OR * tl.load(scale_O, mask=is_row_O, other=0.0)[:, None]
    return tl.dot(weight_OI, x_RI.T, sum_OR, input_precision=PRECISION)


@triton.jit(do_not_specialize=["top_k"])
def _multiply(
    x, x_scale, weight, first, second, third, y, y_scale, order, table,
    outputs, inputs, lines, groups, x_stride, row_blocks, top_k,
    FORMAT: tl.constexpr, GATED: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr, X_GROUP: tl.constexpr, WEIGHT_GROUP: tl.constexpr, PRECISION: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, ENTRY: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS numbers of each row of a block.

    GATED: of the matrix's `outputs` the first half are gates of the second, and x is tokens; otherwise x is rows.
    EVEN: no tile of the matrix sticks out. In "fp8" X_GROUP inputs of a row have one scale, and so do OUTPUTS of y if
    GATED; WEIGHT_GROUP: inputs of a matrix that have one; INPUTS divides both. In "wide" INPUTS of a row are rounded.
    """
    block = tl.program_id(0) // row_blocks
    width = outputs // 2 if GATED else outputs
    row_O = tl.program_id(0) % row_blocks * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row_O = row_O < width
    begin(DEPENDENT)
    if block < tl.load(table):
        entry = table + (block + 1) * ENTRY
        expert, first_row, end_row = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
        row_R = first_row + tl.arange(0, ROWS)
        is_row_R = row_R < end_row
        from_R = row_R.to(tl.int64)
        if GATED:
            from_R = (tl.load(order + row_R, mask=is_row_R, other=0) // top_k).to(tl.int64)
        x_R = x + from_R * x_stride
        scale_O, other_scale_O, x_scale_R = row_O, row_O, row_R
        if FORMAT == "fp8":
            scale_O = _scales_of(first, second, row_O, is_row_O, lines, groups, expert)
            other_scale_O = scale_O
            if GATED:
                other_scale_O = _scales_of(first, second, width + row_O, is_row_O, lines, groups, expert)
            x_scale_R = x_scale + from_R * (inputs // X_GROUP)
        sum_OR = tl.zeros([OUTPUTS, ROWS], tl.float32)
        other_OR = tl.zeros([OUTPUTS, ROWS], tl.float32)
        for start in range(0, inputs, INPUTS):
            input_I = start + tl.arange(0, INPUTS)
            is_input_I = input_I < inputs
            x_RI = _rows(x_R, input_I, is_row_R, is_input_I, FORMAT, EVEN, x.dtype.element_ty, LARGEST, SMALLEST_SCALE)
            scale_R = x_scale_R
            if FORMAT == "fp8":
                scale_R = tl.load(x_scale_R + start // X_GROUP, mask=is_row_R, other=0.0)
            weight_OI = _tile(
                weight, first, second, third, row_O, input_I, is_row_O, is_input_I, outputs, inputs, lines, groups,
                expert, FORMAT, EVEN, x.dtype.element_ty,
            )  # fmt: skip
            group = start // WEIGHT_GROUP
            sum_OR = _add(sum_OR, weight_OI, x_RI, scale_O + group, scale_R, is_row_O, FORMAT, PRECISION)
            if GATED:
                weight_OI = _tile(
                    weight, first, second, third, width + row_O, input_I, is_row_O, is_input_I, outputs, inputs,
                    lines, groups, expert, FORMAT, EVEN, x.dtype.element_ty,
                )  # fmt: skip
                other_OR = _add(other_OR, weight_OI, x_RI, other_scale_O + group, scale_R, is_row_O, FORMAT, PRECISION)
        if GATED:
            sum_OR = sum_OR / (1.0 + tl.exp(-sum_OR)) * other_OR
        to_R = row_R.to(tl.int64)
        y_RO = sum_OR.T
        if GATED and FORMAT == "fp8":
            y_RO, scale_R = rounded(y_RO, LARGEST, SMALLEST_SCALE)
            columns = tl.cdiv(width, OUTPUTS)
            tl.store(y_scale + to_R * columns + tl.program_id(0) % row_blocks, scale_R, mask=is_row_R)
        mask_RO = is_row_R[:, None] & is_row_O[None, :]
        tl.store(y + to_R[:, None] * width + row_O[None, :], y_RO.to(y.dtype.element_ty), mask=mask_RO)


def multiply(
    x: Tensor, x_scale: Tensor | None, matrices: Matrices, rows: Rows, shape: Shape, *, dtype: torch.dtype, top_k: int
) -> tuple[Tensor, Tensor | None]:
    """A product for all rows, and if its format is fp8 and it is gated the scales of what it makes.

    top_k: the choices of a token, if this is the first product, which is gated and takes tokens; 0 otherwise.
    """
    gated, is_8_bit = top_k > 0, matrices.format == "fp8"
    pairs, width = len(rows.order), matrices.outputs // 2 if gated else matrices.outputs
    outputs, inputs, warps, stages = (
        (shape.outputs, shape.inputs, shape.warps, shape.stages)
        if gated
        else (shape.down_outputs, shape.down_inputs, shape.down_warps, shape.down_stages)
    )
    columns = triton.cdiv(width, outputs)
    y = torch.empty(pairs, width, dtype=torch.float8_e4m3fn if gated and is_8_bit else dtype, device=x.device)
    y_scale = torch.empty(pairs, columns, dtype=torch.float32, device=x.device) if gated and is_8_bit else None
    more, dependent = matrices.more or (None, None, None), depends(x.device)
    _multiply[(rows.most_blocks * columns,)](
        x, x_scale, matrices.weight, *more, y, y_scale, rows.order, rows.table,
        matrices.outputs, matrices.inputs, matrices.lines, matrices.groups, x.stride(0), columns, top_k,
        FORMAT=matrices.format, GATED=gated, EVEN=width % outputs == 0 and matrices.inputs % inputs == 0,
        ROWS=shape.rows, OUTPUTS=outputs, INPUTS=inputs, X_GROUP=TILE if gated else shape.outputs, WEIGHT_GROUP=TILE,
        PRECISION="ieee", LARGEST=LARGEST, SMALLEST_SCALE=SMALLEST_SCALE, ENTRY=ENTRY, DEPENDENT=dependent,
        launch_pdl=dependent, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y, y_scale


def shape_for(format: str, tokens: int, experts: int, top_k: int, dtype: torch.dtype) -> Shape:  # noqa: A002
    """Parameters for so many tokens, a power of two, if all experts are chosen alike. Source: docs/kernels.md."""
    if format == "wide":
        return Shape(NARROWEST, 32, TILE, 4, 2, 32, TILE, 4, 2)
    if dtype == torch.float32 or format == "awq":
        return Shape(NARROWEST, 32, 32, 4, 2, 32, 32, 4, 2)
    mean = tokens * top_k / experts
    rows = 16 if mean <= 8 else 32 if mean <= 16 else 64
    if format == "fp8":
        if rows == NARROWEST:
            return Shape(rows, 64, 128, 4, 4, 128, 64, 4, 4)
        return Shape(rows, 128, 128, 8, 3, 128, 128, 8, 3)
    if rows < 64:
        return Shape(rows, 64, 64, 4, 4, 64, 64, 4, 4)
    return Shape(128, 64, 64, 8, 4, 128, 64, 8, 4)


def mixture(
    x: Tensor, gate_up: Matrices, down: Matrices, choice: Tensor, share: Tensor, first: int, shape: Shape | None = None
) -> Tensor:
    """ops.gated_experts. shape: launch parameters, where they are not to be looked up."""
    (tokens, top_k), experts = choice.shape, len(gate_up.weight)
    if not tokens:
        return torch.zeros_like(x)
    x = x if x.stride(1) == 1 else x.contiguous()
    if shape is None:
        counted = min(triton.next_power_of_2(tokens), MOST_TOKENS)
        default = shape_for(gate_up.format, counted, experts, top_k, x.dtype)
        shape = tuned.shape(x.device, f"experts {gate_up.format}", Shape, sizes_of(gate_up, counted, top_k), default)
    assert shape is not None, "no library computes this"
    rows = sort(choice, first, experts, shape.rows)
    given, scale = quantize_groups(x) if gate_up.format == "fp8" else (x, None)
    wide, scale = multiply(given, scale, gate_up, rows, shape, dtype=x.dtype, top_k=top_k)
    narrow, _ = multiply(wide, scale, down, rows, shape, dtype=x.dtype, top_k=0)
    return combine(narrow, rows.place, share)


def sizes_of(gate_up: Matrices, tokens: int, top_k: int) -> tuple[int, ...]:
    """What parameters are looked up by: tokens, choices of each, experts, outputs and inputs of the first product."""
    return tokens, top_k, len(gate_up.weight), gate_up.outputs, gate_up.inputs


@ops.gated_experts.implementation("triton", why_not)
def gated_experts(x: Tensor, gate_up: Tensor, down: Tensor, choice: Tensor, share: Tensor, first: int) -> Tensor:
    wide, narrow = (Matrices("plain", weight, *weight.shape[1:]) for weight in (gate_up, down))
    return mixture(x, wide, narrow, choice, share, first)


@ops.gated_experts_fp8_block.implementation("triton", why_not)
def gated_experts_fp8_block(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_row_tile: Tensor,
    gate_up_column_tile: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_row_tile: Tensor,
    down_column_tile: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
) -> Tensor:
    wide_more = gate_up_scale, gate_up_row_tile, gate_up_column_tile
    narrow_more = down_scale, down_row_tile, down_column_tile
    are_whole = _has_whole_tiles(gate_up, gate_up_scale) and _has_whole_tiles(down, down_scale)
    format_ = "fp8" if are_whole and x.dtype != torch.float32 else "wide"
    wide = Matrices(format_, gate_up, *gate_up.shape[1:], wide_more)
    return mixture(x, wide, Matrices(format_, down, *down.shape[1:], narrow_more), choice, share, first)


def _has_whole_tiles(weight: Tensor, scale: Tensor) -> bool:
    """Whether each TILE inputs have one scale: tiles are cut nowhere, or are larger."""
    return weight.shape[2] == scale.shape[2] * TILE


@ops.gated_experts_awq.implementation("triton", why_not)
def gated_experts_awq(
    x: Tensor,
    gate_up: Tensor,
    gate_up_zeros: Tensor,
    gate_up_scales: Tensor,
    gate_up_group_of: Tensor,
    down: Tensor,
    down_zeros: Tensor,
    down_scales: Tensor,
    down_group_of: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
) -> Tensor:
    wide_more, narrow_more = (gate_up_zeros, gate_up_scales, gate_up_group_of), (down_zeros, down_scales, down_group_of)
    wide, narrow = (
        Matrices("awq", weight, scales.shape[2], weight.shape[1], (zeros, scales, group_of))
        for weight, (zeros, scales, group_of) in ((gate_up, wide_more), (down, narrow_more))
    )
    return mixture(x, wide, narrow, choice, share, first)
