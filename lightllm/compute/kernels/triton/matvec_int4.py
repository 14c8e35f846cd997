# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of 4-bit weights with tokens, on Hopper: few tokens meet the weights as they are, many their floats.

As matvec_hopper.py, the copy engine fetches tiles of the matrix, the first before the program waits for its tokens. A
tile is in the order in which the matrix unit takes its left operand from registers (ops.int4): a thread reads its own
words, and a shift and a mask make a pair of 16-bit floats of each. A weight becomes the lowest bits of 128 (bfloat16)
or 1024 (float16); less 128, or 1024, and the zero point it is exact. A group's sums are scaled in float32.

Suffixes: O rows of the matrix, T tokens, I inputs.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, mma_v2, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute import ops
from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.activation import silu_and_mul
from lightllm.compute.kernels.triton.descriptors import OF_16_BITS, lines_of, tiles_of
from lightllm.compute.kernels.triton.launch import (
    arrivals,
    begin,
    cdiv,
    depends,
    is_hopper,
    next_power_of_2,
    rows_of,
    why_not_hopper,
)
from lightllm.compute.kernels.triton.matvec_hopper import MANY_ROWS, MOST_SPLITS, _end, room_for_parts
from lightllm.compute.ops.int4 import COLUMNS, ROWS, WORDS

MOST_TOKENS = 64
MOST_BY_WARPS = 16  # tokens for which the matrix unit's older instructions are as fast
NARROWEST = 8  # tokens of the smallest product
WARPS = 4
PIECE = 64  # inputs that one row of the copied tokens has
WORDS_A_LINE = WORDS[1]
ALL_INPUTS = 1 << 30  # a group that has them all


def _unpacking(magic: str, kind: str) -> gl.constexpr:
    """Two words and the zero points of two rows, in pairs -> eight pairs of floats. See ops.int4 for what is where."""
    lines = ["{", ".reg .b32 a;"]
    for word in range(2):
        for place in range(4):
            to, zero = f"${4 * word + place}", "$10" if place % 2 == 0 else "$12"
            lines += [f"shr.u32 a, ${8 + word}, {4 * place};", f"lop3.b32 {to}, a, 0x000f000f, {magic}, 0xEA;"]
            lines += [f"sub.{kind}x2 {to}, {to}, {zero};"]
    return gl.constexpr("\n".join([*lines, "}"]))


_UNPACK_BF16, _UNPACK_F16 = _unpacking("0x43004300", "bf16"), _unpacking("0x64006400", "f16")
_OPERANDS = gl.constexpr(",".join(["=&r"] * 8 + ["r"] * 6))


@dataclass(frozen=True)
class Shape:
    """Launch parameters. inputs: of a stage; halves: tiles of outputs a stage has; splits: programs that share a row's
    inputs; grouped: whether groups of four warps multiply at once, or each warp by itself."""

    inputs: int
    stages: int
    splits: int = 1
    halves: int = 1
    grouped: bool = False


@gluon.jit
def _fetch(
    words, steps, weights, metas, ready, stage, rows, tile, tiles, is_tile, bytes_a_stage: gl.constexpr,
    GROUP: gl.constexpr, HALVES: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """Asks for the weights of a stage and their steps, and announces all of its bytes."""
    LINES: gl.constexpr = words.block_type.shape[1]
    mbarrier.expect(ready.index(stage), bytes_a_stage, pred=is_tile)
    # A tile of 64 outputs and 128 inputs has 32 lines.
    row, line = rows[0] // 64, tile * LINES
    at = [0, row * (tiles * 32) + line, 0] if GATED else [row, line, 0]
    tma.async_copy_global_to_shared(words, at, ready.index(stage), weights.index(stage), pred=is_tile)
    group = tile * (LINES * 4) // GROUP
    for half in gl.static_range(HALVES):
        to = metas.index(stage * HALVES + half)
        tma.async_copy_global_to_shared(steps, [group, rows[half]], ready.index(stage), to, pred=is_tile)


@gluon.jit
def _fetch_tokens(x, xs, ready, stage, tile, is_tile):
    pieces = tile * x.block_type.shape[0]
    tma.async_copy_global_to_shared(x, [pieces, 0, 0], ready.index(stage), xs.index(stage), pred=is_tile)


@gluon.jit
def _step(metas, unit: gl.constexpr, UNITS: gl.constexpr, SUMS: gl.constexpr):
    """Scale and zero point of each row, in one number, where a stage has UNITS units and as many groups or fewer."""
    STEPS: gl.constexpr = gl.DistributedLinearLayout(
        [[0, 8]], [[0, 0], [0, 0], [0, 1], [0, 2], [0, 4]], [[0, 16], [0, 32]], [], [1, 64]
    )
    step_O = metas.slice(unit * metas.shape[0] // UNITS, 1).load(STEPS).reshape([64])
    return gl.convert_layout(step_O, gl.SliceLayout(1, SUMS), assert_trivial=True)


@gluon.jit
def _floats(weights, step_O, piece: gl.constexpr, tokens, SUMS: gl.constexpr):
    """Of the inputs of one piece of tokens: weights less zero points, as the matrix unit's left operand."""
    PIECE: gl.constexpr = tokens.shape[2]
    KIND: gl.constexpr = tokens.dtype
    LINES: gl.constexpr = gl.BlockedLayout([1, 2], [2, 16], [4, 1], [1, 0])
    # [32 inputs, warp, thread's rows, thread's inputs, word]
    THREADS: gl.constexpr = gl.BlockedLayout([1, 1, 1, 1, 2], [1, 1, 8, 4, 1], [1, 4, 1, 1, 1], [4, 3, 2, 1, 0])
    ROWS_OF_THREADS: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(3, gl.SliceLayout(4, THREADS)))
    words = weights.slice(piece * (PIECE // 4), PIECE // 4).load(LINES).reshape([PIECE // 32, 4, 8, 4, 2])
    words = gl.convert_layout(words, THREADS, assert_trivial=True)
    zero_O = (step_O & 15) * 0x10001 | (0x43004300 if gl.bfloat16 == KIND else 0x64006400)
    low, high = gl.split(zero_O.reshape([4, 2, 8]).permute((0, 2, 1)))
    low = gl.convert_layout(low, ROWS_OF_THREADS, assert_trivial=True)[None, :, :, None, None]
    high = gl.convert_layout(high, ROWS_OF_THREADS, assert_trivial=True)[None, :, :, None, None]
    # Of each pair of words: its eight pairs of weights, [word, inputs, rows].
    if gl.bfloat16 == KIND:
        p = gl.inline_asm_elementwise(
            _UNPACK_BF16, _OPERANDS, [words, low, high], dtype=(gl.bfloat16,) * 8, is_pure=True, pack=2
        )
    else:
        p = gl.inline_asm_elementwise(
            _UNPACK_F16, _OPERANDS, [words, low, high], dtype=(gl.float16,) * 8, is_pure=True, pack=2
        )
    first = gl.join(gl.join(p[0], p[1]), gl.join(p[2], p[3]))
    pairs = gl.join(first, gl.join(gl.join(p[4], p[5]), gl.join(p[6], p[7])))
    weight_OI = pairs.permute((1, 5, 2, 0, 7, 6, 3, 4)).reshape([64, PIECE])
    return gl.convert_layout(weight_OI, gl.DotOperandLayout(0, SUMS, 2), assert_trivial=True)


@gluon.jit
def _sum_tiles(
    x, words, steps, rows, first, count, tiles, weights, metas, xs, ready,
    TOKENS: gl.constexpr, UNIT: gl.constexpr, PIECE: gl.constexpr, UNITS: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, HALVES: gl.constexpr, GATED: gl.constexpr, GROUPED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """The products of both halves' rows with all tokens, over `count` stages of inputs from `first` on."""
    if GROUPED:
        SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, TOKENS, 16])
    else:
        SUMS: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [num_warps, 1], [16, 8])
    TOKENS_OF_PIECE: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TOKENS, PIECE], x.dtype)
    WORDS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([UNITS * UNIT // 4, 32], gl.int32)
    BYTES: gl.constexpr = words.block_type.nbytes + HALVES * steps.block_type.nbytes + x.block_type.nbytes
    for ahead in gl.static_range(STAGES):
        _fetch(
            words, steps, weights, metas, ready, ahead, rows, first + ahead, tiles, ahead < count, BYTES, GROUP,
            HALVES, GATED,
        )  # fmt: skip
    gdc_wait()
    for ahead in gl.static_range(STAGES):
        _fetch_tokens(x, xs, ready, ahead, first + ahead, ahead < count)
    nothing_OT = gl.zeros([64, TOKENS], gl.float32, SUMS)
    sums = (nothing_OT, nothing_OT)
    for number in range(count):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        here = weights.index(stage)._reinterpret(gl.int32, [HALVES, UNITS * UNIT // 4, 32], WORDS)
        tokens = xs.index(stage)._reinterpret(x.dtype, [UNITS * UNIT // PIECE, TOKENS, PIECE], TOKENS_OF_PIECE)
        if GROUPED:
            sums = _add_by_groups(sums, here, metas, stage, tokens, nothing_OT, UNITS, UNIT // PIECE, HALVES, SUMS)
        else:
            sums = _add_by_warps(sums, here, metas, stage, tokens, nothing_OT, UNITS, UNIT // PIECE, HALVES, SUMS)
        # All warps have read the stage before it is filled again.
        gl.thread_barrier()
        is_tile = number + STAGES < count
        tile = first + number + STAGES
        _fetch(words, steps, weights, metas, ready, stage, rows, tile, tiles, is_tile, BYTES, GROUP, HALVES, GATED)
        _fetch_tokens(x, xs, ready, stage, tile, is_tile)
    return sums


@gluon.jit
def _add_by_groups(
    sums, weights, metas, stage, tokens, nothing_OT,
    UNITS: gl.constexpr, PIECES: gl.constexpr, HALVES: gl.constexpr, SUMS: gl.constexpr,
):  # fmt: skip
    """Adds the products of a stage: groups of four warps multiply one unit while they unpack the next."""
    before_OT, before_O = nothing_OT, 0
    for part in gl.static_range(UNITS * HALVES):
        step_O = _step(metas.index(stage * HALVES + part % HALVES), part // HALVES, UNITS, SUMS)
        part_OT = nothing_OT
        for piece in gl.static_range(PIECES):
            weight_OI = _floats(weights.index(part % HALVES), step_O, part // HALVES * PIECES + piece, tokens, SUMS)
            tokens_IT = tokens.index(part // HALVES * PIECES + piece).permute((1, 0))
            part_OT = warpgroup_mma(weight_OI, tokens_IT, part_OT, use_acc=piece > 0, is_async=True)
        if part > 0:
            sums = _added(sums, warpgroup_mma_wait(PIECES, deps=(before_OT,)), before_O, part - 1, HALVES)
        before_OT, before_O = part_OT, _scale(step_O)
    return _added(sums, warpgroup_mma_wait(0, deps=(before_OT,)), before_O, UNITS * HALVES - 1, HALVES)


@gluon.jit
def _add_by_warps(
    sums, weights, metas, stage, tokens, nothing_OT,
    UNITS: gl.constexpr, PIECES: gl.constexpr, HALVES: gl.constexpr, SUMS: gl.constexpr,
):  # fmt: skip
    """Adds the products of a stage: each warp multiplies by itself."""
    for unit in gl.static_range(UNITS):
        for half in gl.static_range(HALVES):
            step_O = _step(metas.index(stage * HALVES + half), unit, UNITS, SUMS)
            # Pieces are summed apart, so that not every product waits for the one before.
            unit_OT = nothing_OT
            for piece in gl.static_range(PIECES):
                weight_OI = _floats(weights.index(half), step_O, unit * PIECES + piece, tokens, SUMS)
                tokens_IT = tokens.index(unit * PIECES + piece).permute((1, 0))
                part_OT = mma_v2(weight_OI, tokens_IT.load(gl.DotOperandLayout(1, SUMS, 2)), nothing_OT)
                unit_OT = part_OT if piece == 0 else unit_OT + part_OT
            sums = _added(sums, unit_OT, _scale(step_O), half, HALVES)
    return sums


@gluon.jit
def _scale(step_O):
    return (step_O & -16).to(gl.float32, bitcast=True)


@gluon.jit
def _added(sums, part_OT, scale_O, part: gl.constexpr, HALVES: gl.constexpr):
    """The sums of both halves with one more part, which is scaled."""
    scaled_OT = part_OT * scale_O[:, None]
    if part % HALVES == 0:
        return sums[0] + scaled_OT, sums[1]
    else:  # noqa: RET505 (without it both would be compiled)
        return sums[0], sums[1] + scaled_OT


@gluon.jit(do_not_specialize=["tokens"])
def _stream(
    x, words, steps, bias, y, parts, counters, tokens, outputs, tiles,
    TOKENS: gl.constexpr, UNIT: gl.constexpr, PIECE: gl.constexpr, UNITS: gl.constexpr, GROUP: gl.constexpr,
    STAGES: gl.constexpr, HALVES: gl.constexpr, SPLITS: gl.constexpr, BIASED: gl.constexpr, GATED: gl.constexpr,
    GROUPED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """x, words, steps: descriptors. tiles: of COLUMNS inputs; a stage has UNITS units of UNIT inputs."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    weights = gl.allocate_shared_memory(gl.int32, [STAGES, HALVES, UNITS * UNIT // 4, 32], words.layout)
    metas = gl.allocate_shared_memory(gl.int32, [STAGES * HALVES, steps.block_type.shape[0], 64], steps.layout)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, UNITS * UNIT // PIECE, TOKENS, PIECE], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for ahead in gl.static_range(STAGES):
        mbarrier.init(ready.index(ahead), count=1)

    block, split = gl.program_id(0), gl.program_id(1)
    all_stages = gl.cdiv(tiles * 128, UNIT * UNITS)
    first = split * all_stages // SPLITS
    count = (split + 1) * all_stages // SPLITS - first
    row = block * 64 if GATED else block * (64 * HALVES)
    rows = (row, outputs // 2 + row if GATED else row + 64)
    sum_OT, other_OT = _sum_tiles(
        x, words, steps, rows, first, count, tiles, weights, metas, xs, ready,
        TOKENS, UNIT, PIECE, UNITS, GROUP, STAGES, HALVES, GATED, GROUPED, num_warps,
    )  # fmt: skip
    sum_OT, other_OT = gl.convert_layout(sum_OT, MEMORY), gl.convert_layout(other_OT, MEMORY)
    sums, more = (sum_OT, other_OT), (rows, bias, (), (y, None), parts, counters, tokens, outputs)
    _end(sums, *more, 64, TOKENS, HALVES, SPLITS, BIASED, GATED, False, None, 0.0, False, MEMORY)


def shape_for(tokens: int, outputs: int, inputs: int, *, gated: bool) -> Shape:
    """Parameters for these sizes; `tokens` is a power of two. Source: docs/performance-log.md."""
    grouped = tokens > MOST_BY_WARPS
    if gated or outputs >= MANY_ROWS:
        return Shape(128, 4, 1, 2, grouped) if tokens > 32 else Shape(512, 2, 1, 2, grouped)
    by_tokens = {8: (512, 3, 128), 16: (512, 2, 192), 32: (256, 4, 192), 64: (128, 4, 192)}
    stage, stages, programs = by_tokens[tokens]
    blocks, splits = cdiv(outputs, ROWS), 1
    # Smaller stages where else there would be too few programs.
    while stage > COLUMNS and blocks * (inputs // (2 * stage)) < programs:
        stage, stages = stage // 2, min(2 * stages, 8)
    tiles = cdiv(inputs, stage)
    while blocks * splits < programs and tiles // (2 * splits) >= 2 and splits < MOST_SPLITS:
        splits *= 2
    return Shape(stage, stages, splits, 1, grouped)


def multiply(
    x: Tensor, words: Tensor, steps: Tensor, group: int, bias: Tensor | None, shape: Shape, *, gated: bool = False
) -> Tensor:
    """ops.linear_int4, or if gated ops.gated_linear_int4, for at most MOST_TOKENS tokens of 16 bits, in order."""
    assert shape.halves == 2 or not gated, "a gate and its other row are of one program"
    tokens, outputs, tiles = len(x), steps.shape[1], words.shape[1]
    y = torch.empty(tokens, outputs // 2 if gated else outputs, dtype=x.dtype, device=x.device)
    blocks = cdiv(outputs // 2, ROWS) if gated else cdiv(outputs, ROWS * shape.halves)
    parts = room_for_parts(y, shape.splits, outputs, blocks)
    padded = max(next_power_of_2(tokens), NARROWEST)
    group = group if group < x.shape[1] else ALL_INPUTS
    # A stage has whole groups, or is part of one; tokens are copied in pieces, one behind another.
    stage = shape.inputs if shape.inputs % group == 0 or group % shape.inputs == 0 else COLUMNS
    unit = min(group, COLUMNS)
    piece, lines = min(unit, PIECE), stage // 4
    if x.shape[1] % piece:
        x = F.pad(x, (0, -x.shape[1] % piece))
    _stream[(blocks, shape.splits)](
        tiles_of(x.unflatten(1, (-1, piece)).transpose(0, 1), stage // piece, padded, piece),
        # A gate's tile and the one that it gates are half of all apart; other halves follow one another.
        tiles_of(words.view(2 if gated else len(words), -1, WORDS_A_LINE), shape.halves, lines, WORDS_A_LINE),
        lines_of(steps, max(stage // group, 1), ROWS),
        bias, y, parts, arrivals(x.device), tokens, outputs, tiles,
        TOKENS=padded, UNIT=unit, PIECE=piece, UNITS=stage // unit, GROUP=group, STAGES=shape.stages,
        HALVES=shape.halves, SPLITS=shape.splits, BIASED=bias is not None, GATED=gated, GROUPED=shape.grouped,
        num_warps=WARPS, launch_pdl=True,
    )  # fmt: skip
    return y


@triton.jit
def _dequantize(words, steps, y, outputs, inputs, GROUP: tl.constexpr, DEPENDENT: tl.constexpr):
    """A tile of the matrix."""
    row_O = tl.program_id(0) * 64 + tl.arange(0, 64)
    input_I = tl.program_id(1) * 128 + tl.arange(0, 128)
    mask_OI = (row_O < outputs)[:, None] & (input_I < inputs)[None, :]
    tile = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    packed = tl.load(words + tile * 1024 + tl.arange(0, 1024))
    step_OI = tl.load(steps + (input_I // GROUP)[None, :] * outputs + row_O[:, None], mask=mask_OI, other=0)
    numbers = tl.reshape((packed[:, None] >> (tl.arange(0, 8) * 4)[None, :]) & 15, [4, 4, 8, 4, 2, 2, 2, 2])
    number_OI = tl.reshape(tl.permute(numbers, [1, 7, 2, 0, 4, 6, 3, 5]), [64, 128])
    y_OI = (number_OI - (step_OI & 15)).to(tl.float32) * (step_OI & -16).to(tl.float32, bitcast=True)
    # What reads the matrix before it is written again was launched before.
    begin(DEPENDENT)
    to_OI = y + row_O.to(tl.int64)[:, None] * inputs + input_I[None, :]
    tl.store(to_OI, y_OI.to(y.dtype.element_ty), mask=mask_OI)


def dequantized(words: Tensor, steps: Tensor, group: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """The matrix [outputs, inputs], inputs in the order in which tiles have them."""
    outputs, dependent = steps.shape[1], depends(words.device)
    y = torch.empty(outputs, inputs, dtype=dtype, device=words.device)
    _dequantize[(words.shape[0], words.shape[1])](
        words, steps, y, outputs, inputs, GROUP=group, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4
    )
    return y


@triton.jit
def _reorder(x, order, y, inputs, x_stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    input_I = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    from_I = tl.load(order + input_I, mask=input_I < inputs, other=0)
    begin(DEPENDENT)
    x_I = tl.load(x + token * x_stride + from_I, mask=input_I < inputs, other=0.0)
    tl.store(y + token * inputs + input_I, x_I, mask=input_I < inputs)


def reordered(x: Tensor, order: Tensor) -> Tensor:
    """x[:, order]"""
    (tokens, inputs), dependent, block = x.shape, depends(x.device), 1024
    y = torch.empty(tokens, inputs, dtype=x.dtype, device=x.device)
    if tokens:
        _reorder[(tokens, cdiv(inputs, block))](
            x, order, y, inputs, x.stride(0), BLOCK=block, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4
        )
    return y


@ops.linear_int4.implementation("triton", why_not_hopper)
def linear_int4(
    x: Tensor, words: Tensor, steps: Tensor, order: Tensor | None, group: int, bias: Tensor | None
) -> Tensor:
    return _product(x, words, steps, order, group, bias, gated=False)


@ops.gated_linear_int4.implementation("triton", why_not_hopper)
def gated_linear_int4(
    x: Tensor, words: Tensor, steps: Tensor, order: Tensor | None, group: int, bias: Tensor | None
) -> Tensor:
    return _product(x, words, steps, order, group, bias, gated=True)


def _product(
    x: Tensor, words: Tensor, steps: Tensor, order: Tensor | None, group: int, bias: Tensor | None, *, gated: bool
) -> Tensor:
    x = _ordered(x, order)
    if not _streams(x, steps):
        y = F.linear(x, dequantized(words, steps, group, x.shape[1], x.dtype), bias)
        return silu_and_mul(y) if gated else y
    # Gates and what they gate are multiplied by one program where both begin with a tile.
    joined = gated and steps.shape[1] // 2 % ROWS == 0
    y = multiply(x, words, steps, group, bias, _shape(x, steps, gated=joined), gated=joined)
    return silu_and_mul(y) if gated and not joined else y


def _ordered(x: Tensor, order: Tensor | None) -> Tensor:
    return rows_of(x) if order is None else reordered(rows_of(x), order)


def _shape(x: Tensor, steps: Tensor, *, gated: bool) -> Shape:
    sizes = (max(next_power_of_2(len(x)), NARROWEST), steps.shape[1], x.shape[1])
    op, default = "gated_linear_int4" if gated else "linear_int4", shape_for(*sizes, gated=gated)
    return tuned.shape(x.device, op, Shape, sizes, default) or default


def _streams(x: Tensor, steps: Tensor) -> bool:
    """Whether tokens are few enough, on a card that has such a copy engine, and in rows that it can copy."""
    if not 0 < len(x) <= MOST_TOKENS or x.dtype not in OF_16_BITS or not is_hopper(x.device):
        return False
    strides = math.gcd(x.stride(0) * x.element_size(), steps.stride(0) * steps.element_size(), x.data_ptr())
    return x.stride(1) == 1 and strides % 16 == 0
