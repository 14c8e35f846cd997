# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""The two products of a mixture of experts: of each expert's matrix with that expert's rows.

As in matvec.py the matrix is the tall operand of the matrix unit and the rows its narrow one: an expert has few rows
in most steps, and then the cost is reading the matrices. A program takes a block of an expert's rows and OUTPUTS of its
matrix; the first product takes gates and what they multiply together, so that only their product is written.

Numbers (FORMAT): "plain": of one type. "scaled": matrices and rows in 8 bits, multiplied as they are; what few enough
inputs give that all have one scale is scaled, then added. Matrices of 8 bits that are scaled first: "tiles", by rows
that are rounded to 8 bits, and "channels". "fp6": as these, of 6 bits. "awq": of 4 bits.
Suffixes: O outputs of a tile, I inputs of a tile, R rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.expert_rows import ENTRY, Rows
from lightllm.compute.kernels.triton.fp6 import floats_of_6_bits
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends
from lightllm.compute.kernels.triton.quantize import rounded
from lightllm.compute.ops.fp8_block import TILE
from lightllm.compute.ops.per_channel import LARGEST, SMALLEST_SCALE


@dataclass(frozen=True)
class Product:
    """Launch parameters. outputs, inputs: of a tile; run: tiles of outputs that a program takes one after another."""

    outputs: int
    inputs: int
    warps: int = 4
    stages: int = 4
    run: int = 1


@dataclass(frozen=True)
class Matrices:
    """Of all experts here: weights [experts, ...], and what the format adds, in the order of the op's arguments.

    In "scaled", scales are of outputs if nothing else is added, and otherwise of tiles.
    """

    format: str
    weight: Tensor
    outputs: int
    inputs: int
    more: tuple[Tensor, ...] = ()

    @property
    def added(self) -> tuple[Tensor | None, ...]:
        """What kernels are given of `more`."""
        return (*self.more, None, None, None)[:3]

    @property
    def groups(self) -> int:
        """Scales along the inputs."""
        if len(self.more) < 2:
            return 1
        return self.more[0].shape[1 if self.format == "awq" else 2]

    @property
    def lines(self) -> int:
        """Of scales an expert has. In "awq": inputs from one expert's numbers of groups to the next one's."""
        if self.format == "awq":
            return self.inputs if self.more[2].ndim == 2 else 0
        return self.more[0].shape[1] if self.more else 1

    @property
    def group(self) -> int:
        """Inputs of an output that have one scale, 0 if all have."""
        return TILE if len(self.more) > 1 else 0


@triton.jit
def _awq_tile(
    weight, zeros, scales, group_of, row_O, input_I, mask_IO, is_input_I, outputs, inputs, lines, groups, expert,
    KIND: tl.constexpr,
):  # fmt: skip
    # Eight neighbouring outputs share a number; the order of their four bits is ops.awq.NIBBLE.
    shift_O = ((row_O % 2) * 4 + (row_O % 8) // 2) * 4
    line_I = expert * groups + tl.load(group_of + expert * lines + input_I, mask=is_input_I, other=0)
    weight_I = weight + (expert.to(tl.int64) * inputs + input_I) * (outputs // 8)
    packed_IO = tl.load(weight_I[:, None] + (row_O // 8)[None, :], mask=mask_IO, other=0)
    zeros_IO = tl.load(zeros + (line_I * (outputs // 8))[:, None] + (row_O // 8)[None, :], mask=mask_IO, other=0)
    scale_IO = tl.load(scales + (line_I * outputs)[:, None] + row_O[None, :], mask=mask_IO, other=0.0)
    number_IO = ((packed_IO >> shift_O[None, :]) & 15) - ((zeros_IO >> shift_O[None, :]) & 15)
    return (number_IO.to(tl.float32) * scale_IO).to(KIND).T


@triton.jit
def _scales_of(scale, row_tile, row_O, is_row_O, lines, groups, expert, WEIGHT_GROUP: tl.constexpr):
    """Where the scales of some rows begin, each with `groups` along the inputs."""
    line_O = row_O
    if WEIGHT_GROUP > 0:
        line_O = tl.load(row_tile + row_O, mask=is_row_O, other=0).to(tl.int32)
    return scale + (expert * lines + line_O) * groups


@triton.jit
def _tile(
    weight, first, second, third, row_O, input_I, is_row_O, is_input_I, outputs, inputs, lines, groups, expert,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """A tile of an expert's matrix, in numbers of KIND. first, second, third: what a format adds."""
    mask_OI = is_row_O[:, None] & is_input_I[None, :]
    if FORMAT == "awq":
        weight_OI = _awq_tile(
            weight, first, second, third, row_O, input_I, mask_OI.T, is_input_I, outputs, inputs, lines, groups,
            expert, KIND,
        )  # fmt: skip
    else:
        row_bytes = inputs // 4 * 3 if FORMAT == "fp6" else inputs
        weight_O = weight + (expert.to(tl.int64) * outputs + row_O) * row_bytes
        if FORMAT == "fp6":
            upper_OI = tl.load(weight_O[:, None] + (input_I // 2)[None, :], mask=mask_OI, other=0)
            lower_OI = tl.load(weight_O[:, None] + (inputs // 2 + input_I // 4)[None, :], mask=mask_OI, other=0)
            weight_OI = floats_of_6_bits(upper_OI, lower_OI, input_I[None, :], KIND)
        elif EVEN:
            weight_OI = tl.load(weight_O[:, None] + input_I[None, :])
        else:
            weight_OI = tl.load(weight_O[:, None] + input_I[None, :], mask=mask_OI, other=0.0)
        if FORMAT == "tiles":
            scale_O = _scales_of(first, second, row_O, is_row_O, lines, groups, expert, 1)
            tile_I = tl.load(third + input_I, mask=is_input_I, other=0)
            scale_OI = tl.load(scale_O[:, None] + tile_I[None, :], mask=mask_OI, other=0.0)
            weight_OI = (weight_OI.to(tl.float32) * scale_OI).to(KIND)
        if FORMAT == "channels" or FORMAT == "fp6":
            scale_O = tl.load(first + expert * lines + row_O, mask=is_row_O, other=0.0)
            weight_OI = (weight_OI.to(tl.float32) * scale_O[:, None]).to(KIND)
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
    if FORMAT == "tiles" and KIND.primitive_bitwidth == 16:
        x_RI, scale_R = rounded(x_RI.to(tl.float32), LARGEST, SMALLEST_SCALE, tl.float8e4nv)
        x_RI = (x_RI.to(tl.float32) * scale_R[:, None]).to(KIND)
    return x_RI


@triton.jit
def _add_tile(
    sum_OR, x_R, x_scale_R, scale_O, weight, first, second, third, row_O, start, is_row_R, is_row_O,
    outputs, inputs, lines, groups, expert,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, INPUTS: tl.constexpr, X_GROUP: tl.constexpr,
    WEIGHT_GROUP: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
):  # fmt: skip
    """The sum with the product of INPUTS inputs from `start` on, of the matrix's rows row_O."""
    input_I = start + tl.arange(0, INPUTS)
    is_input_I = input_I < inputs
    kind = x_R.dtype.element_ty
    x_RI = _rows(x_R, input_I, is_row_R, is_input_I, FORMAT, EVEN, kind, LARGEST, SMALLEST_SCALE)
    weight_OI = _tile(
        weight, first, second, third, row_O, input_I, is_row_O, is_input_I, outputs, inputs, lines, groups, expert,
        FORMAT, EVEN, kind,
    )  # fmt: skip
    if FORMAT == "scaled":
        scale_R = tl.load(x_scale_R + start // X_GROUP, mask=is_row_R, other=0.0)
        if WEIGHT_GROUP > 0:
            scale_O += start // WEIGHT_GROUP
        scales_O = tl.load(scale_O, mask=is_row_O, other=0.0)
        sum_OR += tl.dot(weight_OI, x_RI.T).to(tl.float32) * scale_R[None, :] * scales_O[:, None]
    else:
        sum_OR = tl.dot(weight_OI, x_RI.T, sum_OR, input_precision="ieee")
    return sum_OR


@triton.jit
def _find(table, block, ROWS: tl.constexpr, ENTRY: tl.constexpr):
    """The expert of a block, its rows, and which of these there are."""
    entry = table + (block + 1) * ENTRY
    expert, first_row, end_row = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    row_R = first_row + tl.arange(0, ROWS)
    return expert, row_R.to(tl.int64), row_R < end_row


@triton.jit(do_not_specialize=["top_k"])
def _multiply_gated(
    x, x_scale, weight, first, second, third, y, y_scale, order, table,
    outputs, inputs, lines, groups, x_stride, columns, top_k,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    X_GROUP: tl.constexpr, WEIGHT_GROUP: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr,
    ENTRY: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """silu(gate) * up for OUTPUTS of a block's rows, where the first half of `outputs` are gates; x is tokens.

    EVEN: no tile of the matrix sticks out. In "scaled" X_GROUP inputs of a token have one scale, and so do OUTPUTS of
    y; WEIGHT_GROUP: inputs of a matrix that have one, 0 if all have; INPUTS divides both. In "tiles" INPUTS of a row
    are rounded alike.
    """
    block, column = tl.program_id(0) // columns, tl.program_id(0) % columns
    width = outputs // 2
    row_O = column * OUTPUTS + tl.arange(0, OUTPUTS)
    other_O, is_row_O = width + row_O, row_O < width
    begin(DEPENDENT)
    if block < tl.load(table):
        expert, row_R, is_row_R = _find(table, block, ROWS, ENTRY)
        token_R = (tl.load(order + row_R, mask=is_row_R, other=0) // top_k).to(tl.int64)
        x_R, x_scale_R, scale_O, other_scale_O = x + token_R * x_stride, token_R, row_O, other_O
        if FORMAT == "scaled":
            x_scale_R = x_scale + token_R * tl.cdiv(inputs, X_GROUP)
            scale_O = _scales_of(first, second, row_O, is_row_O, lines, groups, expert, WEIGHT_GROUP)
            other_scale_O = _scales_of(first, second, other_O, is_row_O, lines, groups, expert, WEIGHT_GROUP)
        gate_OR, up_OR = tl.zeros([OUTPUTS, ROWS], tl.float32), tl.zeros([OUTPUTS, ROWS], tl.float32)
        for start in range(0, inputs, INPUTS):
            gate_OR = _add_tile(
                gate_OR, x_R, x_scale_R, scale_O, weight, first, second, third, row_O, start, is_row_R, is_row_O,
                outputs, inputs, lines, groups, expert, FORMAT, EVEN, INPUTS, X_GROUP, WEIGHT_GROUP, LARGEST,
                SMALLEST_SCALE,
            )  # fmt: skip
            up_OR = _add_tile(
                up_OR, x_R, x_scale_R, other_scale_O, weight, first, second, third, other_O, start, is_row_R, is_row_O,
                outputs, inputs, lines, groups, expert, FORMAT, EVEN, INPUTS, X_GROUP, WEIGHT_GROUP, LARGEST,
                SMALLEST_SCALE,
            )  # fmt: skip
        y_RO = (gate_OR / (1.0 + tl.exp(-gate_OR)) * up_OR).T
        if FORMAT == "scaled":
            y_RO, scale_R = rounded(y_RO, LARGEST, SMALLEST_SCALE, y.dtype.element_ty)
            tl.store(y_scale + row_R * columns + column, scale_R, mask=is_row_R)
        mask_RO = is_row_R[:, None] & is_row_O[None, :]
        tl.store(y + (row_R * width)[:, None] + row_O[None, :], y_RO.to(y.dtype.element_ty), mask=mask_RO)


@triton.jit
def _multiply(
    x, x_scale, weight, first, second, third, y, table, outputs, inputs, lines, groups, x_stride, columns,
    FORMAT: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
    RUN: tl.constexpr, TILES: tl.constexpr, X_GROUP: tl.constexpr, WEIGHT_GROUP: tl.constexpr,
    LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, ENTRY: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """RUN times OUTPUTS of a block's rows; x is rows. All else as in _multiply_gated.

    With a RUN the TILES along the inputs are unrolled, so that those of the next outputs are asked for ahead.
    """
    block, column = tl.program_id(0) // columns, tl.program_id(0) % columns
    begin(DEPENDENT)
    if block < tl.load(table):
        expert, row_R, is_row_R = _find(table, block, ROWS, ENTRY)
        x_R, x_scale_R = x + row_R * x_stride, row_R
        if FORMAT == "scaled":
            x_scale_R = x_scale + row_R * tl.cdiv(inputs, X_GROUP)
        for piece in range(RUN):
            row_O = (column * RUN + piece) * OUTPUTS + tl.arange(0, OUTPUTS)
            scale_O, is_row_O = row_O, row_O < outputs
            if FORMAT == "scaled":
                scale_O = _scales_of(first, second, row_O, is_row_O, lines, groups, expert, WEIGHT_GROUP)
            sum_OR = tl.zeros([OUTPUTS, ROWS], tl.float32)
            if RUN > 1:
                for tile in tl.static_range(TILES):
                    sum_OR = _add_tile(
                        sum_OR, x_R, x_scale_R, scale_O, weight, first, second, third, row_O, tile * INPUTS, is_row_R,
                        is_row_O, outputs, inputs, lines, groups, expert, FORMAT, EVEN, INPUTS, X_GROUP, WEIGHT_GROUP,
                        LARGEST, SMALLEST_SCALE,
                    )  # fmt: skip
            else:
                for start in range(0, inputs, INPUTS):
                    sum_OR = _add_tile(
                        sum_OR, x_R, x_scale_R, scale_O, weight, first, second, third, row_O, start, is_row_R,
                        is_row_O, outputs, inputs, lines, groups, expert, FORMAT, EVEN, INPUTS, X_GROUP, WEIGHT_GROUP,
                        LARGEST, SMALLEST_SCALE,
                    )  # fmt: skip
            mask_RO = is_row_R[:, None] & is_row_O[None, :]
            to_RO = y + (row_R * outputs)[:, None] + row_O[None, :]
            tl.store(to_RO, sum_OR.T.to(y.dtype.element_ty), mask=mask_RO)


def multiply_gated(
    x: Tensor, x_scale: Tensor | None, matrices: Matrices, rows: Rows, shape: Product, *, top_k: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """silu(gate) * up of each row's token: [pairs, outputs / 2] of `dtype`, or if the format is "scaled" in 8 bits,
    with a scale for each shape.outputs of it."""
    pairs, width, is_8_bit = len(rows.order), matrices.outputs // 2, matrices.format == "scaled"
    columns = cdiv(width, shape.outputs)
    y = torch.empty(pairs, width, dtype=matrices.weight.dtype if is_8_bit else dtype, device=x.device)
    y_scale = torch.empty(pairs, columns, dtype=torch.float32, device=x.device) if is_8_bit else None
    _multiply_gated[(rows.most_blocks * columns,)](
        x, x_scale, matrices.weight, *matrices.added, y, y_scale, rows.order, rows.table,
        matrices.outputs, matrices.inputs, matrices.lines, matrices.groups, x.stride(0), columns, top_k,
        **_constants(matrices, width, rows, shape, TILE),
    )  # fmt: skip
    return y, y_scale


def multiply(
    x: Tensor, x_scale: Tensor | None, matrices: Matrices, rows: Rows, shape: Product, *, group: int, dtype: torch.dtype
) -> Tensor:
    """[pairs, outputs] of `dtype`. group: inputs of a row that have one scale."""
    columns = cdiv(matrices.outputs, shape.outputs * shape.run)
    y = torch.empty(len(x), matrices.outputs, dtype=dtype, device=x.device)
    _multiply[(rows.most_blocks * columns,)](
        x, x_scale, matrices.weight, *matrices.added, y, rows.table,
        matrices.outputs, matrices.inputs, matrices.lines, matrices.groups, x.stride(0), columns,
        RUN=shape.run, TILES=cdiv(matrices.inputs, shape.inputs) if shape.run > 1 else 1,
        **_constants(matrices, matrices.outputs, rows, shape, group),
    )  # fmt: skip
    return y


def _constants(matrices: Matrices, width: int, rows: Rows, shape: Product, x_group: int) -> dict[str, Any]:
    """What both kernels are compiled for. width: outputs that are cut into tiles."""
    dependent = depends(matrices.weight.device)
    even = width % (shape.outputs * shape.run) == 0 and matrices.inputs % shape.inputs == 0
    return {
        "FORMAT": matrices.format, "EVEN": even, "ROWS": rows.block, "OUTPUTS": shape.outputs, "INPUTS": shape.inputs,
        "X_GROUP": x_group, "WEIGHT_GROUP": matrices.group,
        "LARGEST": LARGEST.get(matrices.weight.dtype, 0.0), "SMALLEST_SCALE": SMALLEST_SCALE, "ENTRY": ENTRY,
        "DEPENDENT": dependent, "launch_pdl": dependent, "num_warps": shape.warps, "num_stages": shape.stages,
    }  # fmt: skip
