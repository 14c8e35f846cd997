# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of sequences that run one token each, on Hopper: keys are on their way before the token is known.

The work is cut as in attention_decode.py, whose description comes first. Here a program asks for its first tiles before
it waits for the kernel that makes queries and the newest keys, unless such a key is in the tile; copies run STAGES - 1
tiles ahead. Which work each program has is found out once a step, by a kernel launched in the ordinary way (launch.py).
Tokens are the tall operand of the matrix unit and heads its narrow one, so few heads waste little. In Gluon, Triton's
lower level, because Triton asks for nothing of a loop before all that comes before the loop.

Suffixes: S sequences, T tokens of a tile, G query heads of a key head, D numbers of a head, E both ends of a run.
"""

from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, card, next_power_of_2

WARPS = 4
NARROWEST = 8  # heads of the smallest product
MOST_GROUPED = 16
DIMS = (64, 128, 256)
JOINED = gl.constexpr(4)  # parts that are read at once
SHARE = gl.constexpr(8)  # numbers that say which units a program has


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: of one multiprocessor at once, so that they hide each other's waiting."""

    tile: int
    stages: int
    programs: int


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def _first_position(length, window, WINDOWED: gl.constexpr):
    """The first position that the last of `length` tokens sees."""
    return gl.maximum(length - window, 0) if WINDOWED else length * 0


@gluon.jit
def _owner(unit, programs, units):
    """Which of `programs` has this unit, where program p has units p * units // programs up to the next one's."""
    return ((unit + 1) * programs - 1) // units


@gluon.jit
def _locate(unit, lengths, sequences, window, SEQUENCES: gl.constexpr, TILE: gl.constexpr, WINDOWED: gl.constexpr):
    """Tiles of all sequences for one head, and of the `unit`-th: head, sequence, number of its first unit."""
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    index_S = gl.arange(0, SEQUENCES, LINE)
    length_S = gl.load(lengths + index_S, mask=index_S < sequences, other=0)
    tiles_S = (length_S - _first_position(length_S, window, WINDOWED) + (TILE - 1)) // TILE
    ends_S = gl.associative_scan(tiles_S, 0, _add)
    tiles = gl.sum(tiles_S, axis=0)
    head = unit // gl.maximum(tiles, 1)
    is_before_S = (ends_S <= unit - head * tiles) & (index_S < sequences)
    sequence = gl.sum(is_before_S.to(gl.int32), axis=0)
    return tiles, head, sequence, head * tiles + gl.sum(gl.where(is_before_S, tiles_S, 0), axis=0)


@gluon.jit
def _next(unit, cursor, lengths, sequences, window, TILE: gl.constexpr, WINDOWED: gl.constexpr):
    """The cursor (head, sequence, first unit, length, first position) of the unit after this one."""
    head, sequence, first, length, seen = cursor
    end = first + gl.cdiv(length - seen, TILE)
    is_last = (unit + 1 == end).to(gl.int32)
    first = gl.where(is_last == 1, end, first)
    sequence += is_last
    is_past = (sequence == sequences).to(gl.int32)
    sequence = gl.where(is_past == 1, 0, sequence)
    # A sequence of no tokens has no unit; the one after it is next.
    length = gl.load(lengths + sequence)
    while length == 0:
        sequence += 1
        wraps = (sequence == sequences).to(gl.int32)
        sequence = gl.where(wraps == 1, 0, sequence)
        is_past += wraps
        length = gl.load(lengths + sequence)
    return head + is_past, sequence, first, length, _first_position(length, window, WINDOWED)


@gluon.jit
def _is_last_tile(unit, cursor, TILE: gl.constexpr):
    """Whether a unit ends its sequence, so that the newest token is in it."""
    _, _, first, length, seen = cursor
    return unit + 1 == first + gl.cdiv(length - seen, TILE)


@gluon.jit
def _line(sequence, table):
    """Where a sequence's line of the slot table begins."""
    slot_table, row, table_stride = table
    return slot_table + gl.load(row + sequence).to(gl.int64) * table_stride


@gluon.jit
def _advance(unit, cursor, line, table, lengths, sequences, window, TILE: gl.constexpr, WINDOWED: gl.constexpr):
    """The cursor after this unit, and where its line of the slot table begins.

    Memory is read only where a sequence ends: in every step of the loop that took as long as all else.
    """
    head, sequence, first, length, seen = cursor
    if unit + 1 == first + gl.cdiv(length - seen, TILE):
        head, sequence, first, length, seen = _next(unit, cursor, lengths, sequences, window, TILE, WINDOWED)
        line = _line(sequence, table)
    return (head, sequence, first, length, seen), line


@gluon.jit
def _slots_on(line, unit, cursor, TILE: gl.constexpr, COPY: gl.constexpr):
    """Slots [TILE] of a unit's tokens, and which of them there are."""
    _, _, first, length, seen = cursor
    position = seen + (unit - first) * TILE
    token_T = gl.arange(0, TILE, gl.SliceLayout(1, COPY))
    is_token_T = token_T < length - position
    return gl.load(line + position + token_T, mask=is_token_T, other=0), is_token_T


@gluon.jit
def _slots(unit, cursor, table, TILE: gl.constexpr, COPY: gl.constexpr):
    """The same, with a line that is not known yet."""
    return _slots_on(_line(cursor[1], table), unit, cursor, TILE, COPY)


@gluon.jit
def _ask(pool, cursor, slot_T, is_token_T, key_tile, value_tile, DIM: gl.constexpr, COPY: gl.constexpr):
    """Asks for the keys and values that one head has in these slots."""
    keys, values, keys_stride, keys_head_stride, values_stride, values_head_stride = pool
    column_D = gl.arange(0, DIM, gl.SliceLayout(0, COPY))
    at_T, head = slot_T.to(gl.int64), cursor[0]
    key_TD = keys + head * keys_head_stride + (at_T * keys_stride)[:, None] + column_D[None, :]
    value_TD = values + head * values_head_stride + (at_T * values_stride)[:, None] + column_D[None, :]
    async_copy.async_copy_global_to_shared(key_tile, key_TD, mask=is_token_T[:, None])
    async_copy.async_copy_global_to_shared(value_tile, value_TD, mask=is_token_T[:, None])


@gluon.jit
def _ask_query(
    q, cursor, q_stride, q_head_stride, target,
    GROUP: gl.constexpr, HEADS: gl.constexpr, DIM: gl.constexpr, COPY: gl.constexpr,
):  # fmt: skip
    head, sequence, _, _, _ = cursor
    head_G = gl.arange(0, HEADS, gl.SliceLayout(1, COPY))
    column_D = gl.arange(0, DIM, gl.SliceLayout(0, COPY))
    query = q + sequence.to(gl.int64) * q_stride + head * GROUP * q_head_stride
    at_GD = query + (head_G * q_head_stride)[:, None] + column_D[None, :]
    async_copy.async_copy_global_to_shared(target, at_GD, mask=(head_G < GROUP)[:, None])


@gluon.jit
def _ask_early(
    q, pool, table, lengths, sequences, window, q_stride, q_head_stride, cursor, start, end, key_tiles, value_tiles,
    queries, GROUP: gl.constexpr, HEADS: gl.constexpr, DIM: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
    WINDOWED: gl.constexpr, COPY: gl.constexpr,
):  # fmt: skip
    """Asks for the first STAGES - 1 units, before waiting for what holds no newest key. Returns the cursor after them,
    and its line of the slot table.

    Afterwards each of them is a group of copies, or part of an earlier one.
    """
    ahead, line = cursor, _line(cursor[1], table)
    cursors, slots = (), ()
    for stage in gl.static_range(STAGES - 1):
        slot_T, is_token_T = _slots_on(line, start + stage, ahead, TILE, COPY)
        if (start + stage < end) & (_is_last_tile(start + stage, ahead, TILE) == 0):
            _ask(pool, ahead, slot_T, is_token_T, key_tiles.index(stage), value_tiles.index(stage), DIM, COPY)
        cursors += (ahead,)
        slots += ((slot_T, is_token_T),)
        ahead, line = _advance(start + stage, ahead, line, table, lengths, sequences, window, TILE, WINDOWED)
    gdc_wait()
    for stage in gl.static_range(STAGES - 1):
        if start + stage < end:
            if _is_last_tile(start + stage, cursors[stage], TILE):
                slot_T, is_token_T = slots[stage]
                _ask(
                    pool, cursors[stage], slot_T, is_token_T, key_tiles.index(stage), value_tiles.index(stage), DIM,
                    COPY,
                )  # fmt: skip
            _ask_query(q, cursors[stage], q_stride, q_head_stride, queries.index(stage), GROUP, HEADS, DIM, COPY)
        async_copy.commit_group()
    return ahead, line


@gluon.jit
def _attend_tile(
    sum_DG, largest_G, weight_TG, is_token_T, scale, query, keys, values, shares,
    TILE: gl.constexpr, HEADS: gl.constexpr, SUMS: gl.constexpr,
):  # fmt: skip
    """Adds a tile to the running softmax, whose weights are summed over tokens only when they are wanted."""
    score_TG = warpgroup_mma(
        keys, query.permute((1, 0)), gl.zeros([TILE, HEADS], gl.float32, SUMS), use_acc=False, is_async=True
    )
    score_TG = warpgroup_mma_wait(0, deps=(score_TG,))
    score_TG = gl.where(is_token_T[:, None], score_TG * scale, float("-inf"))
    new_G = gl.maximum(largest_G, gl.max(score_TG, axis=0))
    share_TG = gl.exp2(score_TG - new_G[None, :])
    before_G = gl.exp2(largest_G - new_G)
    weight_TG = weight_TG * before_G[None, :] + share_TG
    shares = shares.permute((1, 0))
    shares.store(share_TG.to(shares.dtype))
    fence_async_shared()
    gl.thread_barrier()
    sum_DG = warpgroup_mma(values.permute((1, 0)), shares, sum_DG * before_G[None, :], is_async=True)
    return warpgroup_mma_wait(0, deps=(sum_DG,)), new_G, weight_TG


@gluon.jit
def _keep_part(parts, stats, part, sum_DG, largest_G, weight_G, GROUP: gl.constexpr, DIM: gl.constexpr):
    SUMS: gl.constexpr = sum_DG.type.layout
    head_G = gl.arange(0, sum_DG.shape[1], gl.SliceLayout(0, SUMS))
    column_D = gl.arange(0, DIM, gl.SliceLayout(1, SUMS))
    gl.store(stats + part * (2 * GROUP) + head_G, largest_G, mask=head_G < GROUP)
    gl.store(stats + part * (2 * GROUP) + GROUP + head_G, weight_G, mask=head_G < GROUP)
    at_DG = parts + ((part * GROUP + head_G) * DIM)[None, :] + column_D[:, None]
    gl.store(at_DG, sum_DG, mask=(head_G < GROUP)[None, :])


@gluon.jit
def _join(
    parts, stats, counter, out, out_head_stride, first, last,
    GROUP: gl.constexpr, GROUPED: gl.constexpr, DIM: gl.constexpr, JOIN: gl.constexpr,
):  # fmt: skip
    """Joins the parts of a sequence that programs first ... last share, JOINED at once, and resets its counter."""
    head_G = gl.arange(0, GROUPED, gl.SliceLayout(1, JOIN))
    column_D = gl.arange(0, DIM, gl.SliceLayout(0, JOIN))
    is_head_G = head_G < GROUP
    largest_G = gl.full([GROUPED], float("-inf"), gl.float32, gl.SliceLayout(1, JOIN))
    weight_G = gl.zeros([GROUPED], gl.float32, gl.SliceLayout(1, JOIN))
    sum_GD = gl.zeros([GROUPED, DIM], gl.float32, JOIN)
    for begin in range(first, last + 1, JOINED):
        sums, largests, weights = (), (), ()
        for number in gl.static_range(JOINED):
            program = begin + number
            # The program that began a sequence keeps it as its second part, the others as their first.
            part = program * 2 + (program == first).to(gl.int32)
            is_part_G = is_head_G & (program <= last)
            at_GD = parts + ((part * GROUP + head_G) * DIM)[:, None] + column_D[None, :]
            # Past the first cache, which may hold what was there before the others wrote.
            sums += (gl.load(at_GD, mask=is_part_G[:, None], other=0.0, cache_modifier=".cg"),)
            at_G = stats + part * (2 * GROUP) + head_G
            largests += (gl.load(at_G, mask=is_part_G, other=float("-inf"), cache_modifier=".cg"),)
            weights += (gl.load(at_G + GROUP, mask=is_part_G, other=0.0, cache_modifier=".cg"),)
        for number in gl.static_range(JOINED):
            new_G = gl.maximum(largest_G, largests[number])
            # Heads that only fill up the tile have no largest score; any finite base keeps NaN away.
            base_G = gl.where(new_G == float("-inf"), 0.0, new_G)
            before_G, scale_G = gl.exp2(largest_G - base_G), gl.exp2(largests[number] - base_G)
            weight_G = weight_G * before_G + weights[number] * scale_G
            sum_GD = sum_GD * before_G[:, None] + sums[number] * scale_G[:, None]
            largest_G = new_G
    mean_GD = sum_GD / gl.where(is_head_G, weight_G, 1.0)[:, None]
    at_GD = out + (head_G * out_head_stride)[:, None] + column_D[None, :]
    gl.store(at_GD, mean_GD.to(out.dtype.element_ty), mask=is_head_G[:, None])
    gl.store(counter, 0)


@gluon.jit
def _join_ends(
    parts, stats, counters, out, out_stride, out_head_stride, kv_heads, program, programs, units, begun, cursor,
    GROUP: gl.constexpr, GROUPED: gl.constexpr, DIM: gl.constexpr, TILE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Joins what began before this program (`begun`: its cursor then), and what began in it and goes on after it.

    Unit `end` is of the latter. Whoever arrives last at a sequence joins it.
    """
    start, end = program * units // programs, (program + 1) * units // programs
    ENDS: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    JOIN: gl.constexpr = gl.BlockedLayout([1, 4], [1, 32], [num_warps, 1], [1, 0])
    which_E = gl.arange(0, 2, ENDS)
    head_E = gl.where(which_E == 0, begun[0], cursor[0])
    sequence_E = gl.where(which_E == 0, begun[1], cursor[1])
    of_first_E = gl.where(which_E == 0, begun[2], cursor[2])
    tiles_E = (gl.where(which_E == 0, begun[3] - begun[4], cursor[3] - cursor[4]) + (TILE - 1)) // TILE
    is_shared_E = gl.where(which_E == 0, begun[2] < start, (cursor[2] >= start) & (cursor[2] < end))
    first_E, last_E = _owner(of_first_E, programs, units), _owner(of_first_E + tiles_E - 1, programs, units)
    at_E = sequence_E * kv_heads + head_E
    # The parts of every thread are written before those threads count that do.
    gl.thread_barrier()
    arrived_E = gl.atomic_add(counters + at_E, gl.full([2], 1, gl.int32, ENDS), mask=is_shared_E, sem="acq_rel")
    is_joined_E = (is_shared_E & (arrived_E == last_E - first_E)).to(gl.int32)
    for which in gl.static_range(2):
        if gl.sum(gl.where(which_E == which, is_joined_E, 0), axis=0) == 1:
            sequence, head = (begun[1], begun[0]) if which == 0 else (cursor[1], cursor[0])
            first = gl.sum(gl.where(which_E == which, first_E, 0), axis=0)
            last = gl.sum(gl.where(which_E == which, last_E, 0), axis=0)
            to = out + sequence.to(gl.int64) * out_stride + head * GROUP * out_head_stride
            counter = counters + sequence * kv_heads + head
            _join(parts, stats, counter, to, out_head_stride, first, last, GROUP, GROUPED, DIM, JOIN)


@gluon.jit
def _programs_for(
    all_programs, lengths, sequences, kv_heads, window,
    SEQUENCES: gl.constexpr, TILE: gl.constexpr, WINDOWED: gl.constexpr, LEAST: gl.constexpr,
):  # fmt: skip
    """How many programs share the work, so that each has LEAST units, which it asks for at once.

    Where all sequences have as many tiles as one another, none has the end of one and the beginning of another if the
    longest share is no longer for it: what is shared must be joined.
    """
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    index_S = gl.arange(0, SEQUENCES, LINE)
    length_S = gl.load(lengths + index_S, mask=index_S < sequences, other=0)
    tiles_S = (length_S - _first_position(length_S, window, WINDOWED) + (TILE - 1)) // TILE
    most = gl.max(tiles_S, axis=0)
    units = gl.sum(tiles_S, axis=0) * kv_heads
    pairs = gl.sum((tiles_S > 0).to(gl.int32), axis=0) * kv_heads  # of a sequence and a key head
    programs = gl.maximum(gl.minimum(all_programs, gl.cdiv(units, LEAST)), 1)
    is_even = (units == pairs * most) & (pairs > 0)
    pairs = gl.maximum(pairs, 1)
    # Several programs have a pair, or a program has several.
    each, together = programs // pairs, gl.cdiv(pairs, programs)
    aligned = gl.where(each > 0, pairs * each, pairs // together)
    is_even &= (each > 0) | (pairs % together == 0)
    return gl.where(is_even & (gl.cdiv(units, aligned) <= gl.cdiv(units, programs)), aligned, programs)


# What differs from step to step must not be compiled for: the compiler would stop requests for seconds.
@gluon.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["lengths"])
def _share_out(
    work, lengths, sequences, kv_heads, window,
    SEQUENCES: gl.constexpr, TILE: gl.constexpr, WINDOWED: gl.constexpr, LEAST: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Writes down each program's share: of all, units and programs, of its first unit, head, sequence, first unit and
    length; and which sequence is the last that has tokens. A graph of mixed steps has places for many decodes, and
    to pass by the empty ones one after another takes long."""
    program, all_programs = gl.program_id(0), gl.num_programs(0)
    tiles, _, _, _ = _locate(0, lengths, sequences, window, SEQUENCES, TILE, WINDOWED)
    units = tiles * kv_heads
    programs = _programs_for(all_programs, lengths, sequences, kv_heads, window, SEQUENCES, TILE, WINDOWED, LEAST)
    start = program * units // programs
    _, head, sequence, first = _locate(start, lengths, sequences, window, SEQUENCES, TILE, WINDOWED)
    sequence = gl.minimum(sequence, sequences - 1)  # programs beyond the last unit have nothing to do
    share = work + program * SHARE
    gl.store(share, units)
    gl.store(share + 1, gl.minimum(programs, units))
    gl.store(share + 2, head)
    gl.store(share + 3, sequence)
    gl.store(share + 4, first)
    gl.store(share + 5, gl.load(lengths + sequence))
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    index_S = gl.arange(0, SEQUENCES, LINE)
    length_S = gl.load(lengths + index_S, mask=index_S < sequences, other=0)
    gl.store(share + 6, gl.max(gl.where(length_S > 0, index_S, 0), axis=0))


@gluon.jit(do_not_specialize_on_alignment=["row", "lengths"])
def _attend_decodes(
    q, keys, values, out, slot_table, row, lengths, work, parts, stats, counters, kv_heads, scale, window,
    q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    table_stride, out_stride, out_head_stride,
    GROUP: gl.constexpr, GROUPED: gl.constexpr, HEADS: gl.constexpr, DIM: gl.constexpr,
    TILE: gl.constexpr, STAGES: gl.constexpr, WINDOWED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    gdc_launch_dependents()
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // DIM, DIM // 8], [num_warps, 1], [1, 0])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, HEADS, 16])
    element: gl.constexpr = keys.dtype.element_ty
    tile_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, DIM], element)
    key_tiles = gl.allocate_shared_memory(element, [STAGES, TILE, DIM], tile_layout)
    value_tiles = gl.allocate_shared_memory(element, [STAGES, TILE, DIM], tile_layout)
    query_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HEADS, DIM], element)
    queries = gl.allocate_shared_memory(element, [STAGES, HEADS, DIM], query_layout)
    share_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([HEADS, TILE], element)
    shares = gl.allocate_shared_memory(element, [HEADS, TILE], share_layout)

    program = gl.program_id(0)
    share = work + program * SHARE
    units, programs, head = gl.load(share), gl.load(share + 1), gl.load(share + 2)
    sequence, first, length = gl.load(share + 3), gl.load(share + 4), gl.load(share + 5)
    sequences = gl.load(share + 6) + 1
    if program >= programs:
        # See attention_decode.
        if program == 0:
            gdc_wait()
        return
    start, end = program * units // programs, (program + 1) * units // programs
    cursor = (head, sequence, first, length, _first_position(length, window, WINDOWED))
    begun = cursor
    pool = (keys, values, keys_stride, keys_head_stride, values_stride, values_head_stride)
    table = (slot_table, row, table_stride)
    ahead, line = _ask_early(
        q, pool, table, lengths, sequences, window, q_stride, q_head_stride, cursor, start, end, key_tiles, value_tiles,
        queries, GROUP, HEADS, DIM, TILE, STAGES, WINDOWED, COPY,
    )  # fmt: skip
    head_G = gl.arange(0, HEADS, gl.SliceLayout(0, SUMS))
    column_D = gl.arange(0, DIM, gl.SliceLayout(1, SUMS))
    token_T = gl.arange(0, TILE, gl.SliceLayout(1, SUMS))
    largest_G = gl.full([HEADS], float("-inf"), gl.float32, gl.SliceLayout(0, SUMS))
    weight_TG = gl.zeros([TILE, HEADS], gl.float32, SUMS)
    sum_DG = gl.zeros([DIM, HEADS], gl.float32, SUMS)
    slot_T, is_token_T = _slots_on(line, start + STAGES - 1, ahead, TILE, COPY)
    for unit in range(start, end):
        stage, later = (unit - start) % STAGES, (unit - start + STAGES - 1) % STAGES
        async_copy.wait_group(STAGES - 2)
        fence_async_shared()
        # All copies of this tile are there, and all warps have read the one whose place is filled next.
        gl.thread_barrier()
        if unit + STAGES - 1 < end:
            _ask(pool, ahead, slot_T, is_token_T, key_tiles.index(later), value_tiles.index(later), DIM, COPY)
            _ask_query(q, ahead, q_stride, q_head_stride, queries.index(later), GROUP, HEADS, DIM, COPY)
        async_copy.commit_group()
        ahead, line = _advance(unit + STAGES - 1, ahead, line, table, lengths, sequences, window, TILE, WINDOWED)
        slot_T, is_token_T = _slots_on(line, unit + STAGES, ahead, TILE, COPY)

        head, sequence, first, length, seen = cursor
        position = seen + (unit - first) * TILE
        sum_DG, largest_G, weight_TG = _attend_tile(
            sum_DG, largest_G, weight_TG, token_T < length - position, scale, queries.index(stage),
            key_tiles.index(stage), value_tiles.index(stage), shares, TILE, HEADS, SUMS,
        )  # fmt: skip
        is_last = _is_last_tile(unit, cursor, TILE)
        if is_last | (unit + 1 == end):
            began_here = first >= start
            weight_G = gl.sum(weight_TG, axis=0)
            if is_last & began_here:
                mean_DG = (sum_DG / weight_G[None, :]).to(out.dtype.element_ty)
                to = out + sequence.to(gl.int64) * out_stride + head * GROUP * out_head_stride
                to_DG = to + (head_G * out_head_stride)[None, :] + column_D[:, None]
                gl.store(to_DG, mean_DG, mask=(head_G < GROUP)[None, :])
            else:
                part = program * 2 + began_here.to(gl.int32)
                _keep_part(parts, stats, part, sum_DG, largest_G, weight_G, GROUP, DIM)
        largest_G = gl.where(is_last, float("-inf"), largest_G)
        weight_TG = gl.where(is_last, 0.0, weight_TG)
        sum_DG = gl.where(is_last, 0.0, sum_DG)
        if is_last:
            cursor = _next(unit, cursor, lengths, sequences, window, TILE, WINDOWED)

    _join_ends(
        parts, stats, counters, out, out_stride, out_head_stride, kv_heads, program, programs, units, begun, cursor,
        GROUP, GROUPED, DIM, TILE, num_warps,
    )  # fmt: skip


def shape_for(dim: int) -> Shape:
    """Source: docs/performance-log.md."""
    return {64: Shape(128, 3, 2), 128: Shape(64, 3, 2), 256: Shape(64, 3, 1)}[dim]


def why_not(q: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """The reason attend_decodes cannot take these, if there is one."""
    heads, dim = q.shape[1:]
    if keys.dtype not in (torch.float16, torch.bfloat16) or q.dtype != keys.dtype:
        return f"computes in 16 bits, not {q.dtype} and {keys.dtype}"
    if dim not in DIMS or heads // keys.shape[1] > MOST_GROUPED:
        return f"takes heads of {', '.join(map(str, DIMS))} numbers, at most {MOST_GROUPED} of a key head"
    if any(tensor.data_ptr() % 16 or tensor.stride(0) % 8 or tensor.stride(1) % 8 for tensor in (q, keys, values)):
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
    shape: Shape | None = None,
    memo: MutableMapping[Hashable, Any] | None = None,
) -> None:
    """As attention_decode.attend_decodes. memo: of ops.attend."""
    sequences, heads, dim = q.shape
    kv_heads = keys.shape[1]
    group, device = heads // kv_heads, q.device
    shape = shape or shape_for(dim)
    programs, grouped = shape.programs * card(device).multiprocessors, next_power_of_2(group)
    assert sequences * kv_heads <= ARRIVALS, f"{sequences} sequences of {kv_heads} key heads; at most {ARRIVALS} in all"
    parts = torch.empty(programs * 2 * group * dim, dtype=torch.float32, device=device)
    stats = torch.empty(programs * 2 * 2 * group, dtype=torch.float32, device=device)
    several = max(next_power_of_2(sequences), 128)
    key = "work of decodes", lengths.data_ptr(), sequences, kv_heads, window, shape
    is_first = memo is None or key not in memo
    work = torch.empty(programs * SHARE.value, dtype=torch.int32, device=device) if is_first else memo[key]
    if is_first:
        _share_out[(programs,)](
            work, lengths, sequences, kv_heads, window or 0,
            SEQUENCES=several, TILE=shape.tile, WINDOWED=window is not None, LEAST=shape.stages - 1, num_warps=WARPS,
        )  # fmt: skip
    if memo is not None:
        memo[key] = work
    _attend_decodes[(programs,)](
        q, keys, values, out, slot_table, row, lengths, work, parts, stats, arrivals(device), kv_heads,
        scale * LOG2_E, window or 0, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0),
        values.stride(1), slot_table.stride(0), out.stride(0), out.stride(1),
        GROUP=group, GROUPED=grouped, HEADS=max(grouped, NARROWEST), DIM=dim, TILE=shape.tile, STAGES=shape.stages,
        WINDOWED=window is not None, launch_pdl=not is_first, num_warps=WARPS,
    )  # fmt: skip
