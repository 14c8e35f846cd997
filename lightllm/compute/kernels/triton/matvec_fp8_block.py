# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of E4M3 weights that have a scale a tile with few tokens that have one for each 128 inputs, on Hopper.

As matvec_hopper.py, the copy engine fetches tiles of the matrix, the first before the program waits for its tokens.
What the matrix unit sums of the inputs of one tile is scaled, and added in float32. Scales are read a tile ahead.

Suffixes: O rows of the matrix, T tokens.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents

from lightllm.compute.kernels.triton.descriptors import tiles_of, why_not_copied
from lightllm.compute.kernels.triton.launch import arrivals, cdiv, is_hopper, padded
from lightllm.compute.kernels.triton.matvec_hopper import (
    MANY_ROWS,
    MOST_SPLITS,
    Shape,
    _ask,
    _end,
    _fetch,
    _fetch_tokens,
    room_for_parts,
)
from lightllm.compute.kernels.triton.matvec_w8a16 import ROWS, WARPS
from lightllm.compute.ops.fp8_block import TILE

MOST_TOKENS = 64


@gluon.jit
def _scales(scale, scale_O, x_scale, token_T, tokens, tile, lines):
    """Of a tile: those of rows, and those of tokens. scale_O: where each row's first one is."""
    return gl.load(scale + scale_O + tile), gl.load(x_scale + token_T * lines + tile, mask=token_T < tokens, other=0.0)


@gluon.jit(do_not_specialize=["tokens"])
def _stream(
    x, x_scale, weight, scale, row_tile, bias, y, parts, counters, tokens, outputs, lines,
    TOKENS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr, SPLITS: gl.constexpr, BIASED: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """x, weight: descriptors of [tokens, inputs] and [outputs, inputs]; lines: tiles of inputs."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, TOKENS, 32])
    BYTES: gl.constexpr = HALVES * weight.block_type.nbytes + x.block_type.nbytes
    weights = gl.allocate_shared_memory(weight.dtype, [STAGES * HALVES, 64, 128], weight.layout)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, TOKENS, 128], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())

    block, split = gl.program_id(0), gl.program_id(1)
    first = split * lines // SPLITS
    tiles = (split + 1) * lines // SPLITS - first
    row = block * (64 * HALVES)
    rows = (row, row + 64)
    row_O = row + gl.arange(0, 64, gl.SliceLayout(1, SUMS))
    scale_O = gl.load(row_tile + row_O, mask=row_O < outputs, other=0).to(gl.int32) * lines
    other_scale_O = gl.load(row_tile + row_O + 64, mask=row_O + 64 < outputs, other=0).to(gl.int32) * lines
    _ask(x, x, weight, rows, first, tiles, weights, xs, xs, ready, STAGES, HALVES, 0, BYTES)
    token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, SUMS))
    nothing_OT = gl.zeros([64, TOKENS], gl.float32, SUMS)
    sum_OT = nothing_OT
    other_OT = nothing_OT
    by_row_O, by_token_T = _scales(scale, scale_O, x_scale, token_T, tokens, first, lines)
    by_other_row_O = gl.load(scale + other_scale_O + first)
    for number in range(tiles):
        stage, tile = number % STAGES, first + number
        next_tile = gl.minimum(tile + 1, lines - 1)
        next_by_row_O, next_by_token_T = _scales(scale, scale_O, x_scale, token_T, tokens, next_tile, lines)
        next_by_other_row_O = gl.load(scale + other_scale_O + next_tile)
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        tokens_IT = xs.index(stage).permute((1, 0))
        part_OT = warpgroup_mma(weights.index(stage * HALVES), tokens_IT, nothing_OT, use_acc=False, is_async=True)
        if HALVES == 2:
            other_part_OT = warpgroup_mma(
                weights.index(stage * HALVES + 1), tokens_IT, nothing_OT, use_acc=False, is_async=True
            )
            part_OT, other_part_OT = warpgroup_mma_wait(0, deps=(part_OT, other_part_OT))
            other_OT += other_part_OT * (by_other_row_O[:, None] * by_token_T[None, :])
        else:
            part_OT = warpgroup_mma_wait(0, deps=(part_OT,))
        sum_OT += part_OT * (by_row_O[:, None] * by_token_T[None, :])
        by_row_O, by_token_T, by_other_row_O = next_by_row_O, next_by_token_T, next_by_other_row_O
        # All warps have read the stage before it is filled again.
        gl.thread_barrier()
        is_tile = number + STAGES < tiles
        _fetch(weight, weights, ready, stage, rows, tile + STAGES, is_tile, BYTES, HALVES)
        _fetch_tokens(x, x, xs, xs, ready, stage, tile + STAGES, is_tile, 0)
    sums = (gl.convert_layout(sum_OT, MEMORY), gl.convert_layout(other_OT, MEMORY))
    more = (rows, bias, (), (y, y), parts, counters, tokens, outputs)
    _end(sums, *more, 64, TOKENS, HALVES, SPLITS, BIASED, False, False, None, 0.0, False, MEMORY)


def shape_for(tokens: int, outputs: int, inputs: int) -> Shape:
    """Parameters for these sizes; `tokens` is a power of two."""
    if outputs >= MANY_ROWS // 4:
        return Shape(TILE, stages=6 if tokens <= 16 else 4, halves=2)
    blocks, tiles, splits = cdiv(outputs, ROWS), cdiv(inputs, TILE), 1
    while blocks * splits < 192 and tiles // (2 * splits) >= 4 and splits < MOST_SPLITS:
        splits *= 2
    return Shape(TILE, stages=8 if tokens <= 16 else 6, splits=splits)


def multiply(
    numbers: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    scale: Tensor,
    row_tile: Tensor,
    bias: Tensor | None,
    shape: Shape,
    dtype: torch.dtype,
) -> Tensor:
    """ops.linear_fp8_block of at most MOST_TOKENS tokens in numbers [tokens, inputs] and scales [tokens, inputs / TILE]
    float32, where tiles are not cut along the inputs -> [tokens, outputs] of dtype."""
    tokens, outputs, lines = len(numbers), len(weight), scale.shape[1]
    y = torch.empty(tokens, outputs, dtype=dtype, device=numbers.device)
    blocks = cdiv(outputs, ROWS * shape.halves)
    parts = room_for_parts(y, shape.splits, outputs, blocks)
    _stream[(blocks, shape.splits)](
        tiles_of(numbers, padded(tokens), TILE), x_scale, tiles_of(weight, ROWS, TILE), scale, row_tile, bias, y,
        parts, arrivals(numbers.device), tokens, outputs, lines,
        TOKENS=padded(tokens), STAGES=shape.stages, HALVES=shape.halves, SPLITS=shape.splits, BIASED=bias is not None,
        num_warps=WARPS, launch_pdl=True,
    )  # fmt: skip
    return y


def streams(tokens: int, weight: Tensor) -> bool:
    """Whether tokens are few enough, on a card that has such a copy engine, and rows that it can copy."""
    if not 0 < tokens <= MOST_TOKENS or not is_hopper(weight.device):
        return False
    return why_not_copied(weight) is None
