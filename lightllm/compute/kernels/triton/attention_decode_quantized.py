# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of sequences that run one token each, over keys and values of 8 or 4 bits, on Hopper.

The work is cut as in attention_decode.py, and tiles are asked for as in attention_decode_hopper.py; read these first.
What is read is half or a quarter, so what is computed of a tile must not be waited for: each of the WARPS warps has a
softmax of its own over its tokens of every tile, and they are joined only where a sequence ends. A product of the
matrix unit is of a batch of WARPS, one a warp.

Numbers go from shared memory to the registers that multiply them without passing through other threads: a thread reads
16 numbers that lie next to one another, and the order of a head's numbers is changed to what the matrix unit takes them
for, alike in queries and keys, and undone where sums are written. They are multiplied as float16, which holds every
E4M3 number and every whole one of 8 bits exactly; queries are brought near 1 by a power of two. A key's scale
multiplies its score in float32. A value's multiplies its share, relative to the largest scale so far, so that shares
keep their precision; sums of a tile are added in float32.

Suffixes: B warps, N tokens of a tile that a warp has, T all of them, G query heads of a key head, K and D numbers of a
head's part as the matrix unit and as memory have them. A part is every PACKED-th number of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.kernels.triton.attention_decode_hopper import (
    _advance,
    _first_position,
    _is_last_tile,
    _join_ends,
    _line,
    _locate,
    _next,
)
from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, card, next_power_of_2
from lightllm.compute.ops.per_channel import SMALLEST_SCALE

WARPS = gl.constexpr(4)
HEADS = gl.constexpr(16)  # rows of the matrix unit's product
DIMS = (64, 128)
LEAST_SCALE = gl.constexpr(SMALLEST_SCALE)
REGISTERS, MOST_REGISTERS = 65536, 255  # of a multiprocessor, of a thread
MERGED = gl.constexpr(32)  # numbers of a head that warps join at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: of one multiprocessor at once, which share its registers."""

    tile: int
    stages: int
    programs: int


def _key_layout(width: int, tile: int) -> gl.DistributedLinearLayout:
    """Who loads what of a tile of keys [tile, width]: tokens as the columns of a product, in each up to 16 bytes."""
    tokens, run = tile // WARPS.value, min(16, width // 4).bit_length() - 1
    bytes_of_thread = [*range(run), *range(run + 2, width.bit_length() - 1)]
    registers = [[0, 1 << bit] for bit in bytes_of_thread] + [[1 << bit, 0] for bit in range(3, _bits(tokens))]
    lanes = [[0, 1 << run], [0, 2 << run], [1, 0], [2, 0], [4, 0]]
    return gl.DistributedLinearLayout(registers, lanes, [[tokens, 0], [2 * tokens, 0]], [], [tile, width])


def _value_layout(width: int, tile: int) -> gl.DistributedLinearLayout:
    """The same of values: tokens are summed over, and a thread has width / 8 bytes of a token in a run."""
    tokens, run = tile // WARPS.value, _bits(width) - 3
    registers = [[0, 1 << bit] for bit in range(run)] + [[1, 0]] + [[1 << bit, 0] for bit in range(3, _bits(tokens))]
    lanes = [[2, 0], [4, 0], *([0, 1 << bit] for bit in range(run, run + 3))]
    return gl.DistributedLinearLayout(registers, lanes, [[tokens, 0], [2 * tokens, 0]], [], [tile, width])


def _bits(size: int) -> int:
    return size.bit_length() - 1


@gluon.jit
def _numbers(raw, PART: gl.constexpr, PACKED: gl.constexpr):
    """One part of what is stored, before it is scaled, in float16."""
    if PACKED == 2:
        # 1024 + (n ^ 8) is n ^ 8 behind the sign and exponent of 1024; 1032 less is n.
        SHIFT: gl.constexpr = "shr.b32 t, $2, 4;" if PART == 1 else "mov.b32 t, $2;"
        return gl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64086408; " + SHIFT + " and.b32 t, t, 0x0F0F0F0F; xor.b32 t, t, 0x08080808;"
            " prmt.b32 $0, t, 0x64646464, 0x4140; prmt.b32 $1, t, 0x64646464, 0x4342;"
            " sub.rn.f16x2 $0, $0, c; sub.rn.f16x2 $1, $1, c; }",
            "=r,=r,r", [raw], dtype=gl.float16, is_pure=True, pack=4,
        )  # fmt: skip
    if raw.dtype == gl.int8:
        # As above, with 1024 + 128.
        return gl.inline_asm_elementwise(
            "{ .reg .b32 t, c; mov.b32 c, 0x64806480; xor.b32 t, $2, 0x80808080;"
            " prmt.b32 $0, t, 0x64646464, 0x4140; prmt.b32 $1, t, 0x64646464, 0x4342;"
            " sub.rn.f16x2 $0, $0, c; sub.rn.f16x2 $1, $1, c; }",
            "=r,=r,r", [raw], dtype=gl.float16, is_pure=True, pack=4,
        )  # fmt: skip
    return raw.to(gl.float16)


@gluon.jit
def _slots(unit, cursor, line, TILE: gl.constexpr, COPY: gl.constexpr, SCALES: gl.constexpr):
    """Slots of a unit's tokens, and which of them there are: for copies [TILE] and for those of scales [B, N]."""
    TOKENS: gl.constexpr = TILE // WARPS
    _, _, first, length, seen = cursor
    position = seen + (unit - first) * TILE
    token_T = position + gl.arange(0, TILE, gl.SliceLayout(1, COPY))
    warp_B, token_N = gl.arange(0, WARPS, gl.SliceLayout(1, SCALES)), gl.arange(0, TOKENS, gl.SliceLayout(0, SCALES))
    token_BN = position + warp_B[:, None] * TOKENS + token_N[None, :]
    is_token_T, is_token_BN = token_T < length, token_BN < length
    slot_T = gl.load(line + token_T, mask=is_token_T, other=0)
    return slot_T, is_token_T, gl.load(line + token_BN, mask=is_token_BN, other=0), is_token_BN


@gluon.jit
def _ask(pool, scales, cursor, slots, tiles, stage, WIDTH: gl.constexpr, COPY: gl.constexpr):
    """Asks for what one head has in these slots."""
    keys, values, keys_stride, keys_head_stride, values_stride, values_head_stride = pool
    key_scale, value_scale, scale_stride = scales
    key_tiles, value_tiles, key_scales, value_scales = tiles
    slot_T, is_token_T, slot_BN, is_token_BN = slots
    column_D = gl.arange(0, WIDTH, gl.SliceLayout(0, COPY))
    at_T, head = slot_T.to(gl.int64), cursor[0]
    key_TD = keys + head * keys_head_stride + (at_T * keys_stride)[:, None] + column_D[None, :]
    value_TD = values + head * values_head_stride + (at_T * values_stride)[:, None] + column_D[None, :]
    async_copy.async_copy_global_to_shared(key_tiles.index(stage), key_TD, mask=is_token_T[:, None])
    async_copy.async_copy_global_to_shared(value_tiles.index(stage), value_TD, mask=is_token_T[:, None])
    at_BN = slot_BN.to(gl.int64) * scale_stride + head
    async_copy.async_copy_global_to_shared(key_scales.index(stage), key_scale + at_BN, mask=is_token_BN)
    async_copy.async_copy_global_to_shared(value_scales.index(stage), value_scale + at_BN, mask=is_token_BN)


@gluon.jit
def _ask_early(
    pool, scales, table, lengths, sequences, window, cursor, line, start, end, tiles,
    WIDTH: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, WINDOWED: gl.constexpr, COPY: gl.constexpr,
    SCALES: gl.constexpr,
):  # fmt: skip
    """The first tiles; those in which the newest token is only when it is there. Returns the cursor after them."""
    ahead, line_ahead = cursor, line
    for stage in gl.static_range(STAGES - 1):
        if (start + stage < end) & (_is_last_tile(start + stage, ahead, TILE) == 0):
            slots = _slots(start + stage, ahead, line_ahead, TILE, COPY, SCALES)
            _ask(pool, scales, ahead, slots, tiles, stage, WIDTH, COPY)
        ahead, line_ahead = _advance(
            start + stage, ahead, line_ahead, table, lengths, sequences, window, TILE, WINDOWED
        )
    gdc_wait()
    ahead, line_ahead = cursor, line
    for stage in gl.static_range(STAGES - 1):
        if (start + stage < end) & _is_last_tile(start + stage, ahead, TILE):
            slots = _slots(start + stage, ahead, line_ahead, TILE, COPY, SCALES)
            _ask(pool, scales, ahead, slots, tiles, stage, WIDTH, COPY)
        async_copy.commit_group()
        ahead, line_ahead = _advance(
            start + stage, ahead, line_ahead, table, lengths, sequences, window, TILE, WINDOWED
        )
    return ahead, line_ahead


@gluon.jit
def _load_query(
    q, cursor, q_stride, q_head_stride,
    GROUP: gl.constexpr, WIDTH: gl.constexpr, PACKED: gl.constexpr, MMA: gl.constexpr,
):  # fmt: skip
    """Parts of the queries in float16, and the powers of two [B, G] by which they were divided."""
    QUERIES: gl.constexpr = gl.DotOperandLayout(0, MMA, 2)
    RUN: gl.constexpr = 16 if WIDTH >= 64 else WIDTH // 4
    head, sequence, _, _, _ = cursor
    warp_B = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(2, QUERIES)))
    head_G = gl.arange(0, HEADS, gl.SliceLayout(0, gl.SliceLayout(2, QUERIES)))
    number_K = gl.arange(0, WIDTH, gl.SliceLayout(0, gl.SliceLayout(1, QUERIES)))
    # The number of a key that a thread's register holds: see _key_layout.
    of_run_K = number_K % (4 * RUN)
    column_K = number_K - of_run_K + of_run_K // 2 % 4 * RUN + of_run_K // 8 * 2 + of_run_K % 2
    line = q + sequence.to(gl.int64) * q_stride + head * GROUP * q_head_stride
    at_BG = warp_B[:, None] * 0 + (head_G * q_head_stride)[None, :]
    at_BGK = line + at_BG[:, :, None] + (column_K * PACKED)[None, None, :]
    is_head_BGK = (warp_B[:, None] * 0 + head_G[None, :] < GROUP)[:, :, None]
    first = gl.load(at_BGK, mask=is_head_BGK, other=0.0).to(gl.float32)
    largest_BG = gl.max(gl.abs(first), axis=2)
    second = first
    if PACKED == 2:
        second = gl.load(at_BGK + 1, mask=is_head_BGK, other=0.0).to(gl.float32)
        largest_BG = gl.maximum(largest_BG, gl.max(gl.abs(second), axis=2))
    power_BG = (largest_BG.to(gl.int32, bitcast=True) & 0x7F800000).to(gl.float32, bitcast=True)
    power_BG = gl.maximum(power_BG, 1e-30)
    first, second = (first / power_BG[:, :, None]).to(gl.float16), (second / power_BG[:, :, None]).to(gl.float16)
    return first, second, gl.convert_layout(power_BG, gl.SliceLayout(2, MMA))


@gluon.jit
def _key_part(raw, PART: gl.constexpr, PACKED: gl.constexpr, WIDTH: gl.constexpr, MMA: gl.constexpr):
    """[B, K, N] of keys as loaded."""
    TOKENS: gl.constexpr = raw.shape[0] // WARPS
    RUN: gl.constexpr = 16 if WIDTH >= 64 else WIDTH // 4
    numbers = _numbers(raw, PART, PACKED).reshape([WARPS, TOKENS, WIDTH // (4 * RUN), 4, RUN // 2, 2])
    numbers = numbers.permute((0, 2, 4, 3, 5, 1)).reshape([WARPS, WIDTH, TOKENS])
    return gl.convert_layout(numbers, gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)


@gluon.jit
def _value_part(raw, PART: gl.constexpr, PACKED: gl.constexpr, WIDTH: gl.constexpr, MMA: gl.constexpr):
    """[B, N, D] of values as loaded."""
    TOKENS: gl.constexpr = raw.shape[0] // WARPS
    numbers = _numbers(raw, PART, PACKED).reshape([WARPS, TOKENS, 8, WIDTH // 8])
    numbers = numbers.permute((0, 1, 3, 2)).reshape([WARPS, TOKENS, WIDTH])
    return gl.convert_layout(numbers, gl.DotOperandLayout(1, MMA, 2), assert_trivial=True)


@gluon.jit
def _attend_tile(
    sums, largest_BG, top_B, weight_BGN, query, factor_BG, is_token_BN, tiles, stage,
    PACKED: gl.constexpr, WIDTH: gl.constexpr, KEYS: gl.constexpr, VALUES: gl.constexpr, MMA: gl.constexpr,
):  # fmt: skip
    """Adds a tile to the running softmax of each warp. top_B: the largest scale of a value so far."""
    key_tiles, value_tiles, key_scales, value_scales = tiles
    COLUMNS: gl.constexpr = gl.SliceLayout(1, MMA)
    raw_keys, raw_values = key_tiles.index(stage).load(KEYS), value_tiles.index(stage).load(VALUES)
    key_scale_BN, value_scale_BN = key_scales.index(stage).load(COLUMNS), value_scales.index(stage).load(COLUMNS)
    score_BGN = mma_v2(query[0], _key_part(raw_keys, 0, PACKED, WIDTH, MMA), gl.zeros_like(weight_BGN))
    if PACKED == 2:
        score_BGN += mma_v2(query[1], _key_part(raw_keys, 1, PACKED, WIDTH, MMA), gl.zeros_like(weight_BGN))
    score_BGN = score_BGN * factor_BG[:, :, None] * key_scale_BN[:, None, :]
    score_BGN = gl.where(is_token_BN[:, None, :], score_BGN, float("-inf"))
    new_BG = gl.maximum(largest_BG, gl.max(score_BGN, axis=2))
    # A warp may have seen no token yet; any finite base keeps NaN away.
    base_BG = gl.where(new_BG == float("-inf"), 0.0, new_BG)
    share_BGN = gl.exp2(score_BGN - base_BG[:, :, None])
    before_BG = gl.exp2(largest_BG - base_BG)
    weight_BGN = weight_BGN * before_BG[:, :, None] + share_BGN
    value_scale_BN = gl.where(is_token_BN, value_scale_BN, 0.0)
    new_top_B = gl.maximum(top_B, gl.max(value_scale_BN, axis=1))
    inverse_B = 1.0 / new_top_B
    relative_BN = value_scale_BN * inverse_B[:, None]
    before_BG *= gl.convert_layout(top_B * inverse_B, gl.SliceLayout(1, gl.SliceLayout(2, MMA)))[:, None]
    scaled_BGN = (share_BGN * relative_BN[:, None, :]).to(gl.float16)
    scaled_BGN = gl.convert_layout(scaled_BGN, gl.DotOperandLayout(0, MMA, 2), assert_trivial=True)
    first = mma_v2(scaled_BGN, _value_part(raw_values, 0, PACKED, WIDTH, MMA), sums[0] * before_BG[:, :, None])
    second = sums[1]
    if PACKED == 2:
        second = mma_v2(scaled_BGN, _value_part(raw_values, 1, PACKED, WIDTH, MMA), second * before_BG[:, :, None])
    return (first, second), new_BG, new_top_B, weight_BGN


@gluon.jit
def _halves(x):
    """x [B, G, D] cut along D."""
    return gl.split(x.reshape([WARPS, HEADS, 2, x.shape[2] // 2]).permute((0, 1, 3, 2)))


@gluon.jit
def _pieces(x, LEVELS: gl.constexpr):
    """x [B, G, D] as 2^LEVELS tensors, cut along D."""
    pieces = (x,)
    for level in gl.static_range(LEVELS):
        finer = ()
        for which in gl.static_range(1 << level):
            finer += _halves(pieces[which])
        pieces = finer
    return pieces


@gluon.jit
def _write_piece(
    piece, first, weight_G, is_whole, part, parts, to, out_head_stride,
    GROUP: gl.constexpr, WIDTH: gl.constexpr, PACKED: gl.constexpr,
):  # fmt: skip
    """Joins and writes some numbers of a part of the heads, `first` in memory."""
    DIM: gl.constexpr = WIDTH * PACKED
    sum_GD = gl.sum(piece, axis=0)
    LAYOUT: gl.constexpr = sum_GD.type.layout
    head_G = gl.arange(0, HEADS, gl.SliceLayout(1, LAYOUT))
    number_D = gl.arange(0, MERGED, gl.SliceLayout(0, LAYOUT))
    # Where in memory it is: see _value_layout.
    column_D = first + (number_D % 8 * (WIDTH // 8) + number_D // 8) * PACKED
    mask_GD = (head_G < GROUP)[:, None] & (column_D < DIM)[None, :]
    if is_whole == 1:
        mean_GD = sum_GD / gl.convert_layout(weight_G, gl.SliceLayout(1, LAYOUT))[:, None]
        at_GD = to + (head_G * out_head_stride)[:, None] + column_D[None, :]
        gl.store(at_GD, mean_GD.to(to.dtype.element_ty), mask=mask_GD)
    else:
        gl.store(parts + ((part * GROUP + head_G) * DIM)[:, None] + column_D[None, :], sum_GD, mask=mask_GD)


@gluon.jit
def _write(
    sums, largest_BG, top_B, weight_BGN, is_whole, part, parts, stats, to, out_head_stride,
    GROUP: gl.constexpr, WIDTH: gl.constexpr, PACKED: gl.constexpr, MMA: gl.constexpr,
):  # fmt: skip
    """Joins the warps' parts of a sequence and writes them: to the output if that is all of it, else as `part`."""
    LEVELS: gl.constexpr = 0 if WIDTH == 32 else (1 if WIDTH == 64 else 2)
    largest_G = gl.max(largest_BG, axis=0)
    # Heads that only fill up the tile have scores, too: of queries of zeros.
    joined_BG = gl.exp2(largest_BG - largest_G[None, :])
    weight_G = gl.sum(gl.sum(weight_BGN, axis=2) * joined_BG, axis=0)
    factor_BG = joined_BG * gl.convert_layout(top_B, gl.SliceLayout(1, gl.SliceLayout(2, MMA)))[:, None]
    if is_whole == 0:
        head_G = gl.arange(0, HEADS, gl.SliceLayout(0, gl.SliceLayout(2, MMA)))
        gl.store(stats + part * (2 * GROUP) + head_G, largest_G, mask=head_G < GROUP)
        gl.store(stats + part * (2 * GROUP) + GROUP + head_G, weight_G, mask=head_G < GROUP)
    for half in gl.static_range(PACKED):
        pieces = _pieces(sums[half] * factor_BG[:, :, None], LEVELS)
        for which in gl.static_range(1 << LEVELS):
            first = which * (MERGED // 8) * PACKED + half
            _write_piece(
                pieces[which], first, weight_G, is_whole, part, parts, to, out_head_stride, GROUP, WIDTH, PACKED
            )


# What differs from step to step must not be compiled for: the compiler would stop requests for seconds.
@gluon.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["row", "lengths"])
def _attend_decodes(
    q, keys, values, key_scale, value_scale, out, slot_table, row, lengths, parts, stats, counters, sequences, kv_heads,
    scale, window, q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    scale_stride, table_stride, out_stride, out_head_stride,
    SEQUENCES: gl.constexpr, GROUP: gl.constexpr, GROUPED: gl.constexpr, WIDTH: gl.constexpr, PACKED: gl.constexpr,
    TILE: gl.constexpr, STAGES: gl.constexpr, WINDOWED: gl.constexpr, KEYS: gl.constexpr, VALUES: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    gdc_launch_dependents()
    TOKENS: gl.constexpr = TILE // WARPS
    DIM: gl.constexpr = WIDTH * PACKED
    COPY: gl.constexpr = gl.BlockedLayout([1, 16], [512 // WIDTH, WIDTH // 16], [WARPS, 1], [1, 0])
    SCALES: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [WARPS, 1], [1, 0])
    MMA: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    ROWS: gl.constexpr = gl.SliceLayout(2, MMA)
    # Neighbouring 128 bytes are in an order of their own, so that reading a column of them meets no bank twice.
    tile_layout: gl.constexpr = gl.SwizzledSharedLayout(16, 128 // WIDTH, WIDTH // 16, [1, 0])
    line_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    element: gl.constexpr = keys.dtype.element_ty
    tiles = (
        gl.allocate_shared_memory(element, [STAGES, TILE, WIDTH], tile_layout),
        gl.allocate_shared_memory(element, [STAGES, TILE, WIDTH], tile_layout),
        gl.allocate_shared_memory(gl.float32, [STAGES, WARPS, TOKENS], line_layout),
        gl.allocate_shared_memory(gl.float32, [STAGES, WARPS, TOKENS], line_layout),
    )

    program, all_programs = gl.program_id(0), gl.num_programs(0)
    in_all, _, _, _ = _locate(0, lengths, sequences, window, SEQUENCES, TILE, WINDOWED)
    units = in_all * kv_heads
    programs = gl.minimum(all_programs, units)
    if program >= programs:
        # See attention_decode.
        if program == 0:
            gdc_wait()
        return
    start, end = program * units // programs, (program + 1) * units // programs
    _, head, sequence, first = _locate(start, lengths, sequences, window, SEQUENCES, TILE, WINDOWED)
    length = gl.load(lengths + sequence)
    cursor = (head, sequence, first, length, _first_position(length, window, WINDOWED))
    begun = cursor
    pool = (keys, values, keys_stride, keys_head_stride, values_stride, values_head_stride)
    scales, table = (key_scale, value_scale, scale_stride), (slot_table, row, table_stride)
    ahead, line = _ask_early(
        pool, scales, table, lengths, sequences, window, cursor, _line(sequence, table), start, end, tiles, WIDTH, TILE,
        STAGES, WINDOWED, COPY, SCALES,
    )  # fmt: skip
    warp_B = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(1, MMA)))
    token_N = gl.arange(0, TOKENS, gl.SliceLayout(0, gl.SliceLayout(1, MMA)))
    token_BN = warp_B[:, None] * TOKENS + token_N[None, :]
    slots = _slots(start + STAGES - 1, ahead, line, TILE, COPY, SCALES)
    unit = start
    while unit < end:
        head, sequence, first, length, seen = cursor
        after = first + gl.cdiv(length - seen, TILE)
        stop = gl.minimum(after, end)
        query_first, query_second, power_BG = _load_query(q, cursor, q_stride, q_head_stride, GROUP, WIDTH, PACKED, MMA)
        factor_BG = power_BG * scale
        largest_BG = gl.full([WARPS, HEADS], float("-inf"), gl.float32, ROWS)
        top_B = gl.full([WARPS], LEAST_SCALE, gl.float32, gl.SliceLayout(1, gl.SliceLayout(1, MMA)))
        weight_BGN = gl.zeros([WARPS, HEADS, TOKENS], gl.float32, MMA)
        sums = (gl.zeros([WARPS, HEADS, WIDTH], gl.float32, MMA), gl.zeros([WARPS, HEADS, WIDTH], gl.float32, MMA))
        for number in range(unit, stop):
            stage, later = (number - start) % STAGES, (number - start + STAGES - 1) % STAGES
            async_copy.wait_group(STAGES - 2)
            # All copies of this tile are there, and all warps have read the one whose place is filled next.
            gl.thread_barrier()
            if number + STAGES - 1 < end:
                _ask(pool, scales, ahead, slots, tiles, later, WIDTH, COPY)
            async_copy.commit_group()
            ahead, line = _advance(number + STAGES - 1, ahead, line, table, lengths, sequences, window, TILE, WINDOWED)
            slots = _slots(number + STAGES, ahead, line, TILE, COPY, SCALES)
            position = seen + (number - first) * TILE
            sums, largest_BG, top_B, weight_BGN = _attend_tile(
                sums, largest_BG, top_B, weight_BGN, (query_first, query_second), factor_BG,
                token_BN < length - position, tiles, stage, PACKED, WIDTH, KEYS, VALUES, MMA,
            )  # fmt: skip
        began_here = first >= start
        part = program * 2 + began_here.to(gl.int32)
        to = out + sequence.to(gl.int64) * out_stride + head * GROUP * out_head_stride
        is_whole = ((stop == after) & began_here).to(gl.int32)
        _write(
            sums, largest_BG, top_B, weight_BGN, is_whole, part, parts, stats, to, out_head_stride, GROUP, WIDTH,
            PACKED, MMA,
        )  # fmt: skip
        cursor = _next(stop - 1, cursor, lengths, sequences, window, TILE, WINDOWED)
        unit = stop

    _join_ends(
        parts, stats, counters, out, out_stride, out_head_stride, kv_heads, program, programs, units, begun, cursor,
        GROUP, GROUPED, DIM, TILE, num_warps,
    )  # fmt: skip


def shape_for(dim: int) -> Shape:
    """As many programs as registers allow. Source: docs/performance-log.md."""
    return Shape(tile=64, stages=3, programs=3 if dim > 64 else 4)


def why_not(q: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """The reason attend_decodes cannot take these, if there is one."""
    heads, dim = q.shape[1:]
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"computes in 16 bits, not {q.dtype}"
    if dim not in DIMS or heads // keys.shape[1] > HEADS.value:
        return f"takes heads of {', '.join(map(str, DIMS))} numbers, at most {HEADS.value} of a key head"
    if any(tensor.data_ptr() % 16 or tensor.stride(0) % 16 or tensor.stride(1) % 16 for tensor in (keys, values)):
        return "copies 16 bytes at a time, so heads must begin at multiples of 16 bytes"
    return None


def attend_decodes(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_table: Tensor,
    row: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    out: Tensor,
    *,
    scales: tuple[Tensor, Tensor],
    shape: Shape | None = None,
) -> None:
    """As attention_decode.attend_decodes, of pools that have scales."""
    sequences, heads, dim = q.shape
    kv_heads, width = keys.shape[1:]
    group, device = heads // kv_heads, q.device
    default = shape_for(dim)
    shape = shape or tuned.shape(device, "attend quantized decodes", Shape, (dim, width), default) or default
    programs = shape.programs * card(device).multiprocessors
    assert sequences * kv_heads <= ARRIVALS, f"{sequences} sequences of {kv_heads} key heads; at most {ARRIVALS} in all"
    registers = REGISTERS // (32 * WARPS.value * shape.programs)
    parts = torch.empty(programs * 2 * group * dim, dtype=torch.float32, device=device)
    stats = torch.empty(programs * 2 * 2 * group, dtype=torch.float32, device=device)
    _attend_decodes[(programs,)](
        q, keys, values, *scales, out, slot_table, row, lengths, parts, stats, arrivals(device),
        sequences, kv_heads, scale * LOG2_E, window or 0, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1),
        values.stride(0), values.stride(1), scales[0].stride(0), slot_table.stride(0), out.stride(0), out.stride(1),
        SEQUENCES=max(next_power_of_2(sequences), 128), GROUP=group, GROUPED=next_power_of_2(group),
        WIDTH=width, PACKED=dim // width, TILE=shape.tile, STAGES=shape.stages, WINDOWED=window is not None,
        KEYS=_key_layout(width, shape.tile), VALUES=_value_layout(width, shape.tile),
        launch_pdl=True, num_warps=WARPS.value, maxnreg=min(registers // 8 * 8, MOST_REGISTERS),
    )  # fmt: skip
