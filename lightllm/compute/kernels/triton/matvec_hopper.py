# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of a weight matrix with few tokens, on Hopper: tiles of the matrix are always on their way.

As matvec.py, but the tensor copy engine fetches the tiles, STAGES of them ahead. The first ones are asked for before
the program waits for the kernel that makes its tokens: programs find room while that one and smaller ones before it
still run, so that memory is read without a gap from one matrix to the next. In Gluon, Triton's lower level, because
Triton asks for nothing of a loop before all that comes before the loop.

Weights and tokens of 8 bits are multiplied as they are, and what a program has summed is scaled by row and token at the
end. Products of 8-bit floats keep few bits while the matrix unit adds them up, so each tile is summed by itself. What a
gated product makes may be rounded by the program that made it: a token has a scale for each of its tiles of rows then,
and what these many inputs give in the product that reads them is scaled before it is added.

Suffixes: O rows of the matrix, T tokens.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.descriptors import OF_8_BITS, OF_16_BITS, lines_of, tiles_of, why_not_copied
from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, cdiv, padded
from lightllm.compute.ops.per_channel import LARGEST, SMALLEST_SCALE

ROWS_OF_A_WARP = 16
MANY_ROWS = 1 << 16
MOST_SPLITS = 8


@dataclass(frozen=True)
class Shape:
    """Launch parameters. halves: tiles of the matrix a stage has; splits: programs that share a row's inputs."""

    inputs: int
    stages: int
    splits: int = 1
    halves: int = 1
    warps: int = 4

    @property
    def rows(self) -> int:
        """Of a tile."""
        return ROWS_OF_A_WARP * self.warps


@gluon.jit
def _fetch(weight, weights, ready, stage, rows, tile, is_tile, bytes_a_stage: gl.constexpr, HALVES: gl.constexpr):
    """Asks for the weights of a stage, and announces all of its bytes."""
    column = tile * weight.block_type.shape[1]
    mbarrier.expect(ready.index(stage), bytes_a_stage, pred=is_tile)
    for half in gl.static_range(HALVES):
        tma.async_copy_global_to_shared(
            weight, [rows[half], column], ready.index(stage), weights.index(stage * HALVES + half), pred=is_tile
        )


@gluon.jit
def _fetch_tokens(x, x_scale, xs, x_scales, ready, stage, tile, is_tile, X_GROUP: gl.constexpr):
    """Asks for the tokens of a stage, and for their scales if they have several."""
    INPUTS: gl.constexpr = x.block_type.shape[1]
    tma.async_copy_global_to_shared(x, [0, tile * INPUTS], ready.index(stage), xs.index(stage), pred=is_tile)
    if X_GROUP > 0:
        at = [tile * (INPUTS // X_GROUP), 0]
        tma.async_copy_global_to_shared(x_scale, at, ready.index(stage), x_scales.index(stage), pred=is_tile)


@gluon.jit
def _ask(
    x, x_scale, weight, rows, first, tiles, weights, xs, x_scales, ready,
    STAGES: gl.constexpr, HALVES: gl.constexpr, X_GROUP: gl.constexpr, BYTES: gl.constexpr,
):  # fmt: skip
    """Asks for the first STAGES tiles of weights, waits for the kernel that makes x, and asks for x's tiles."""
    for ahead in gl.static_range(STAGES):
        mbarrier.init(ready.index(ahead), count=1)
    for ahead in gl.static_range(STAGES):
        _fetch(weight, weights, ready, ahead, rows, first + ahead, ahead < tiles, BYTES, HALVES)
    gdc_wait()
    for ahead in gl.static_range(STAGES):
        _fetch_tokens(x, x_scale, xs, x_scales, ready, ahead, first + ahead, ahead < tiles, X_GROUP)


@gluon.jit
def _sum_tiles(
    x, weight, rows, first, tiles, weights, xs, ready,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr, BYTES: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """The products of both halves' rows with all tokens, over the tiles that `_ask` began with."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(
        [3, 0], [num_warps, 1], [16, TOKENS, 256 // x.dtype.primitive_bitwidth]
    )
    SUM: gl.constexpr = gl.int32 if x.dtype == gl.int8 else gl.float32
    IS_EXACT: gl.constexpr = x.dtype != gl.float8e4nv
    sum_OT = gl.zeros([ROWS, TOKENS], SUM, SUMS)
    other_OT = gl.zeros([ROWS, TOKENS], SUM, SUMS)
    for number in range(tiles):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        tokens_IT = xs.index(stage).permute((1, 0))
        part_OT = warpgroup_mma(weights.index(stage * HALVES), tokens_IT, sum_OT, use_acc=IS_EXACT, is_async=True)
        if HALVES == 2:
            other_part_OT = warpgroup_mma(
                weights.index(stage * HALVES + 1), tokens_IT, other_OT, use_acc=IS_EXACT, is_async=True
            )
            part_OT, other_part_OT = warpgroup_mma_wait(0, deps=(part_OT, other_part_OT))
            other_OT = other_part_OT if IS_EXACT else other_OT + other_part_OT
        else:
            part_OT = warpgroup_mma_wait(0, deps=(part_OT,))
        sum_OT = part_OT if IS_EXACT else sum_OT + part_OT
        # All warps have read the stage before it is filled again.
        gl.thread_barrier()
        is_tile = number + STAGES < tiles
        tile = first + number + STAGES
        _fetch(weight, weights, ready, stage, rows, tile, is_tile, BYTES, HALVES)
        _fetch_tokens(x, x, xs, xs, ready, stage, tile, is_tile, 0)
    return sum_OT.to(gl.float32), other_OT.to(gl.float32)


@gluon.jit
def _sum_groups(
    x, x_scale, weight, rows, first, tiles, weights, xs, x_scales, ready,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, STAGES: gl.constexpr, X_GROUP: gl.constexpr, BYTES: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """As _sum_tiles, for one half, of tokens that have a scale for each X_GROUP inputs."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, TOKENS, 32])
    LINE: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    GROUPS: gl.constexpr = x.block_type.shape[1] // X_GROUP
    lines = x_scales._reinterpret(gl.float32, [STAGES * GROUPS, TOKENS], LINE)
    nothing_OT = gl.zeros([ROWS, TOKENS], gl.int32 if x.dtype == gl.int8 else gl.float32, SUMS)
    sum_OT = gl.zeros([ROWS, TOKENS], gl.float32, SUMS)
    for number in range(tiles):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        before_OT = nothing_OT
        # Each group is added while the next one is multiplied.
        for group in gl.static_range(GROUPS):
            weight_OI = weights.index(stage).slice(group * X_GROUP, X_GROUP, 1)
            tokens_IT = xs.index(stage).slice(group * X_GROUP, X_GROUP, 1).permute((1, 0))
            part_OT = warpgroup_mma(weight_OI, tokens_IT, nothing_OT, use_acc=False, is_async=True)
            if group > 0:
                before_T = lines.index(stage * GROUPS + group - 1).load(gl.SliceLayout(0, SUMS))
                before_OT = warpgroup_mma_wait(1, deps=(before_OT,))
                sum_OT += before_OT.to(gl.float32) * before_T[None, :]
            before_OT = part_OT
        before_T = lines.index(stage * GROUPS + GROUPS - 1).load(gl.SliceLayout(0, SUMS))
        before_OT = warpgroup_mma_wait(0, deps=(before_OT,))
        sum_OT += before_OT.to(gl.float32) * before_T[None, :]
        # All warps have read the stage before it is filled again.
        gl.thread_barrier()
        is_tile = number + STAGES < tiles
        tile = first + number + STAGES
        _fetch(weight, weights, ready, stage, rows, tile, is_tile, BYTES, 1)
        _fetch_tokens(x, x_scale, xs, x_scales, ready, stage, tile, is_tile, X_GROUP)
    return sum_OT


@gluon.jit
def _scale_of_rows(scale, row, outputs, ROWS: gl.constexpr, LAYOUT: gl.constexpr):
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    return gl.load(scale + row_O, mask=row_O < outputs, other=0.0)


@gluon.jit
def _finish(
    sum_OT, other_OT, row, bias, scales, to, tokens, outputs,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, LAYOUT: gl.constexpr, BIASED: gl.constexpr, GATED: gl.constexpr,
    SCALED: gl.constexpr, LARGEST: gl.constexpr, SMALLEST_SCALE: gl.constexpr,
):  # fmt: skip
    """Writes a tile of results. GATED: sum_OT are the gates of other_OT; `outputs` counts the rows of both.

    SCALED: scales are those of the rows of both, and of tokens. LARGEST: of the 8-bit numbers that each token's results
    in this tile are rounded to, with a scale in a line of y_scale; None: they are not.
    """
    y, y_scale = to
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, LAYOUT))
    width = outputs // 2 if GATED else outputs
    is_row_O = row_O < width
    if SCALED:
        scale_O, other_scale_O, scale_T = scales
        sum_OT *= scale_O[:, None] * scale_T[None, :]
        if GATED:
            other_OT *= other_scale_O[:, None] * scale_T[None, :]
    if BIASED:
        sum_OT += gl.load(bias + row_O, mask=is_row_O, other=0.0).to(gl.float32)[:, None]
        if GATED:
            other_OT += gl.load(bias + width + row_O, mask=is_row_O, other=0.0).to(gl.float32)[:, None]
    if GATED:
        sum_OT = sum_OT / (1.0 + gl.exp(-sum_OT)) * other_OT
    if LARGEST is not None:
        scale_T = gl.maximum(gl.max(gl.abs(sum_OT), axis=0) / LARGEST, SMALLEST_SCALE)
        sum_OT = sum_OT / scale_T[None, :]
        if y.dtype.element_ty == gl.int8:
            # Where a float32's last bit is a whole number.
            sum_OT = (sum_OT + 12582912.0) - 12582912.0
        gl.store(y_scale + row // ROWS * TOKENS + token_T, scale_T, mask=token_T < tokens)
    mask_OT = is_row_O[:, None] & (token_T < tokens)[None, :]
    gl.store(y + token_T[None, :] * width + row_O[:, None], sum_OT.to(y.dtype.element_ty), mask=mask_OT)


@gluon.jit
def _add_parts(
    part, stride, tokens, outputs, row, ROWS: gl.constexpr, TOKENS: gl.constexpr, SPLITS: gl.constexpr,
    LAYOUT: gl.constexpr,
):  # fmt: skip
    """The sum of all programs' parts, in one order whoever is last, so that results do not vary."""
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, LAYOUT))
    mask_OT = (row_O < outputs)[:, None] & (token_T < tokens)[None, :]
    from_OT = part + token_T[None, :] * outputs + row_O[:, None]
    sum_OT = gl.zeros([ROWS, TOKENS], gl.float32, LAYOUT)
    for split in gl.static_range(SPLITS):
        sum_OT += gl.load(from_OT + split * stride, mask=mask_OT, other=0.0, cache_modifier=".cg")
    return sum_OT


@gluon.jit
def _keep_part(part, sum_OT, tokens, outputs, row, ROWS: gl.constexpr, TOKENS: gl.constexpr, LAYOUT: gl.constexpr):
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, LAYOUT))
    mask_OT = (row_O < outputs)[:, None] & (token_T < tokens)[None, :]
    gl.store(part + token_T[None, :] * outputs + row_O[:, None], sum_OT, mask=mask_OT)


@gluon.jit
def _keep_parts(
    parts, sums, tokens, outputs, rows, ROWS: gl.constexpr, TOKENS: gl.constexpr, HALVES: gl.constexpr,
    LAYOUT: gl.constexpr,
):  # fmt: skip
    """Writes what this program has summed of its rows."""
    part = parts + gl.program_id(1) * (tokens * outputs)
    for half in gl.static_range(HALVES):
        _keep_part(part, sums[half], tokens, outputs, rows[half], ROWS, TOKENS, LAYOUT)


@gluon.jit
def _write(
    sums, rows, bias, scales, to, tokens, outputs,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, HALVES: gl.constexpr, BIASED: gl.constexpr, GATED: gl.constexpr,
    SCALED: gl.constexpr, LARGEST: gl.constexpr, SMALLEST_SCALE: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """Writes the results of both halves, or those that one gates."""
    more = (to, tokens, outputs)
    _finish(
        sums[0], sums[1], rows[0], bias, scales, *more,
        ROWS, TOKENS, LAYOUT, BIASED, GATED, SCALED, LARGEST, SMALLEST_SCALE,
    )  # fmt: skip
    if HALVES == 2 and not GATED:
        if SCALED:
            scales = (scales[1], scales[1], scales[2])
        _finish(
            sums[1], sums[1], rows[1], bias, scales, *more,
            ROWS, TOKENS, LAYOUT, BIASED, False, SCALED, None, SMALLEST_SCALE,
        )  # fmt: skip


@gluon.jit
def _end(
    sums, rows, bias, scales, to, parts, counters, tokens, outputs,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, HALVES: gl.constexpr, SPLITS: gl.constexpr, BIASED: gl.constexpr,
    GATED: gl.constexpr, SCALED: gl.constexpr, LARGEST: gl.constexpr, SMALLEST_SCALE: gl.constexpr,
    IN_PARTS: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """Writes what a program has summed, `to` results and their scales. Programs that share rows leave parts: IN_PARTS,
    to whoever reads the product, else to the last of them."""
    if IN_PARTS:
        if SCALED:
            scale_O, other_scale_O, scale_T = scales
            sums = (
                sums[0] * (scale_O[:, None] * scale_T[None, :]),
                sums[1] * (other_scale_O[:, None] * scale_T[None, :]),
            )
        _keep_parts(parts, sums, tokens, outputs, rows, ROWS, TOKENS, HALVES, LAYOUT)
    elif SPLITS == 1:
        _write(
            sums, rows, bias, scales, to, tokens, outputs,
            ROWS, TOKENS, HALVES, BIASED, GATED, SCALED, LARGEST, SMALLEST_SCALE, LAYOUT,
        )  # fmt: skip
    else:
        _keep_parts(parts, sums, tokens, outputs, rows, ROWS, TOKENS, HALVES, LAYOUT)
        # The part of every thread is written before the one thread that counts does so.
        gl.thread_barrier()
        counter = counters + gl.program_id(0)
        if gl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1:
            stride = tokens * outputs
            sum_OT = _add_parts(parts, stride, tokens, outputs, rows[0], ROWS, TOKENS, SPLITS, LAYOUT)
            other_OT = sum_OT
            if HALVES == 2:
                other_OT = _add_parts(parts, stride, tokens, outputs, rows[1], ROWS, TOKENS, SPLITS, LAYOUT)
            gl.store(counter, 0)
            sums = (sum_OT, other_OT)
            _write(
                sums, rows, bias, scales, to, tokens, outputs,
                ROWS, TOKENS, HALVES, BIASED, GATED, SCALED, LARGEST, SMALLEST_SCALE, LAYOUT,
            )  # fmt: skip


@gluon.jit(do_not_specialize=["tokens"])
def _stream(
    x, weight, bias, scale, x_scale, y, y_scale, parts, counters, tokens, outputs, inputs,
    TOKENS: gl.constexpr, ROWS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr,
    SPLITS: gl.constexpr, BIASED: gl.constexpr, GATED: gl.constexpr, SCALED: gl.constexpr, X_GROUP: gl.constexpr,
    LARGEST: gl.constexpr, SMALLEST_SCALE: gl.constexpr, IN_PARTS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """x, weight: descriptors of [tokens, inputs] and [outputs, inputs]. SCALED: y is, by token and row; X_GROUP: inputs
    of a token that have one of its scales, of which x_scale is a descriptor; 0: all have."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    BYTES_OF_SCALES: gl.constexpr = x_scale.block_type.nbytes if X_GROUP > 0 else 0
    BYTES: gl.constexpr = HALVES * weight.block_type.nbytes + x.block_type.nbytes + BYTES_OF_SCALES
    weights = gl.allocate_shared_memory(weight.dtype, [STAGES * HALVES, ROWS, INPUTS], weight.layout)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, TOKENS, INPUTS], x.layout)
    x_scales = xs
    if X_GROUP > 0:
        x_scales = gl.allocate_shared_memory(gl.float32, [STAGES, INPUTS // X_GROUP, TOKENS], x_scale.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())

    block, split = gl.program_id(0), gl.program_id(1)
    all_tiles = gl.cdiv(inputs, INPUTS)
    first = split * all_tiles // SPLITS
    tiles = (split + 1) * all_tiles // SPLITS - first
    row = block * ROWS if GATED else block * (ROWS * HALVES)
    rows = (row, outputs // 2 + row if GATED else row + ROWS)
    if SCALED:
        # Before anything waits, as memory is busy with weights afterwards.
        scale_O = _scale_of_rows(scale, rows[0], outputs, ROWS, MEMORY)
        other_scale_O = _scale_of_rows(scale, rows[1], outputs, ROWS, MEMORY)
    _ask(x, x_scale, weight, rows, first, tiles, weights, xs, x_scales, ready, STAGES, HALVES, X_GROUP, BYTES)
    scales = ()
    if SCALED:
        token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, MEMORY))
        scale_T = gl.full([TOKENS], 1.0, gl.float32, gl.SliceLayout(0, MEMORY))
        if X_GROUP == 0:
            scale_T = gl.load(x_scale + token_T, mask=token_T < tokens, other=0.0)
        scales = (scale_O, other_scale_O, scale_T)
    if X_GROUP > 0:
        sum_OT = _sum_groups(
            x, x_scale, weight, rows, first, tiles, weights, xs, x_scales, ready,
            ROWS, TOKENS, STAGES, X_GROUP, BYTES, num_warps,
        )  # fmt: skip
        other_OT = sum_OT
    else:
        sum_OT, other_OT = _sum_tiles(
            x, weight, rows, first, tiles, weights, xs, ready, ROWS, TOKENS, STAGES, HALVES, BYTES, num_warps
        )
    sum_OT, other_OT = gl.convert_layout(sum_OT, MEMORY), gl.convert_layout(other_OT, MEMORY)
    sums, more = (sum_OT, other_OT), (rows, bias, scales, (y, y_scale), parts, counters, tokens, outputs)
    _end(sums, *more, ROWS, TOKENS, HALVES, SPLITS, BIASED, GATED, SCALED, LARGEST, SMALLEST_SCALE, IN_PARTS, MEMORY)


def shape_for(tokens: int, outputs: int, inputs: int, *, gated: bool) -> Shape:
    """Parameters for these sizes; `tokens` is a power of two. Source: docs/performance-log.md."""
    if gated:
        return Shape(inputs=128, stages=6 if tokens <= 16 else 3, halves=2)
    if outputs >= MANY_ROWS:
        return Shape(inputs=128, stages=3)
    # Enough programs to ask for as much as the memory can deliver, without cutting rows into more parts than that.
    programs, fewest_tiles = (192, 2) if tokens <= 16 else (96, 4)
    blocks, tiles, splits = cdiv(outputs, 4 * ROWS_OF_A_WARP), cdiv(inputs, 128), 1
    while blocks * splits < programs and tiles // (2 * splits) >= fewest_tiles and splits < MOST_SPLITS:
        splits *= 2
    return Shape(inputs=128, stages=5, splits=splits)


def shape_of_8_bits(tokens: int, outputs: int, inputs: int, *, gated: bool) -> Shape:
    """As shape_for, for weights of 8 bits: a tile has as many bytes."""
    shape = shape_for(tokens, outputs, inputs, gated=gated)
    if inputs < 4 * shape.inputs:
        return shape
    splits = min(shape.splits, max(inputs // (4 * shape.inputs), 1))
    return replace(shape, inputs=2 * shape.inputs, splits=splits)


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """The reason `multiply` cannot take these, if there is one."""
    if x.dtype not in OF_16_BITS + OF_8_BITS or weight.dtype != x.dtype:
        return f"computes in 16 and 8 bits, not {x.dtype} and {weight.dtype}"
    return why_not_copied(x, weight)


def multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: Shape,
    *,
    gated: bool = False,
    scales: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    in_parts: bool = False,
) -> Tensor:
    """As matvec.multiply; gated takes two halves. scales: of x [tokens], or [groups of inputs, tokens] for shapes of
    one half, and of the weight [outputs], float32, for 8 bits. dtype: of the result, if not x's. in_parts: it
    is ops.linear_in_parts, without a bias."""
    y = torch.empty(len(x), len(weight) // 2 if gated else len(weight), dtype=dtype or x.dtype, device=x.device)
    return _multiply(x, weight, bias, shape, y, None, gated=gated, scales=scales, in_parts=in_parts)


def multiply_rounded(
    x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, *, scales: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """A gated product in numbers of x's type, of 8 bits, and scales of shape.rows of them [groups, tokens] float32."""
    width = len(weight) // 2
    assert width % shape.rows == 0, f"groups of {shape.rows} cut {width} outputs"
    y = torch.empty(len(x), width, dtype=x.dtype, device=x.device)
    y_scale = torch.empty(width // shape.rows, padded(len(x)), dtype=torch.float32, device=x.device)
    _multiply(x, weight, bias, shape, y, y_scale, gated=True, scales=scales, in_parts=False)
    return y, y_scale[:, : len(x)]


def _multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: Shape,
    y: Tensor,
    y_scale: Tensor | None,
    *,
    gated: bool,
    scales: tuple[Tensor, Tensor] | None,
    in_parts: bool,
) -> Tensor:
    """y or its parts. y_scale: to round y, whose dtype is of 8 bits then."""
    assert shape.halves == 2 or not gated, "a gate and its other row are of one program"
    (tokens, inputs), outputs = x.shape, len(weight)
    blocks = cdiv(outputs // 2, shape.rows) if gated else cdiv(outputs, shape.rows * shape.halves)
    parts = room_for_parts(y, shape.splits, outputs, blocks, in_parts=in_parts)
    x_scale, scale = scales or (None, None)
    group = 0
    if x_scale is not None and x_scale.ndim == 2:
        group = inputs // len(x_scale)
        assert shape.halves == 1, "one half has groups"
        assert shape.inputs % group == 0, f"{shape} cuts groups of {group}"
        if x_scale.stride(1) != 1 or x_scale.stride(0) % 4:
            # The copy engine wants lines that begin at multiples of 16 bytes.
            x_scale = x_scale.new_zeros(len(x_scale), padded(tokens))[:, :tokens].copy_(x_scale)
        x_scale = lines_of(x_scale, shape.inputs // group, padded(tokens))
    _stream[(blocks, shape.splits)](
        tiles_of(x, padded(tokens), shape.inputs), tiles_of(weight, shape.rows, shape.inputs), bias, scale, x_scale, y,
        y_scale, parts, arrivals(x.device), tokens, outputs, inputs,
        TOKENS=padded(tokens), ROWS=shape.rows, INPUTS=shape.inputs, STAGES=shape.stages, HALVES=shape.halves,
        SPLITS=shape.splits, BIASED=bias is not None, GATED=gated, SCALED=scales is not None, X_GROUP=group,
        LARGEST=None if y_scale is None else LARGEST[y.dtype], SMALLEST_SCALE=SMALLEST_SCALE, IN_PARTS=in_parts,
        num_warps=shape.warps, launch_pdl=True,
    )  # fmt: skip
    return parts if in_parts else y


def room_for_parts(y: Tensor, splits: int, outputs: int, blocks: int, *, in_parts: bool = False) -> Tensor:
    """What programs that share the rows of a product y have summed: [splits, tokens, outputs] float32."""
    if splits == 1 and not in_parts:
        return y
    assert blocks <= ARRIVALS, f"{outputs} outputs in {blocks} blocks; at most {ARRIVALS}"
    return torch.empty(splits, len(y), outputs, dtype=torch.float32, device=y.device)
