# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of sequences that run one token each, over the slot table: the cost is reading keys and values once.

One wave of programs shares the work evenly whatever the lengths. A sequence's keys are cut into tiles of TILE tokens,
a unit of work being a tile for one key head and all the query heads that share it. The units of all heads and
sequences are counted through, sequence by sequence within a head, and each program takes a run of this count. So it
finishes some sequences by itself and holds a part of at most two that others work on too: one that an earlier program
began, and one that a later program ends. Such parts go to memory, and the last program to arrive at a sequence joins
its parts. Everything but the number of sequences is read on the device, so that a graph captured once serves all
lengths; and the last sequences may have length 0, so that it serves fewer of them.

Where a pool has scales, a key's multiplies its score and a value's its share: see kv_formats.py.

Suffixes: S sequences, T tokens of a tile, G query heads of a key head, D numbers of a head, J parts to be joined.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.kv_formats import LEAST_SCALE, numbers, scaled_shares
from lightllm.compute.kernels.triton.launch import (
    ARRIVALS,
    NARROWEST,
    arrivals,
    card,
    depends,
    let_next_start,
    next_power_of_2,
    wait,
)

LOG2_E = 1.4426950408889634
JOINED_NUMBERS = 2048  # of parts that are read at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: of one multiprocessor at once; least_tiles: less than this is not worth a share."""

    tile: int
    warps: int
    stages: int
    programs: int
    least_tiles: int = 1


@triton.jit
def _owner(unit, programs, units):
    """Which of `programs` has this unit, where program p has units p * units // programs up to the next one's."""
    return ((unit + 1) * programs - 1) // units


@triton.jit
def _locate(unit, tiles, ends_S, tiles_S):
    """The head and sequence that a unit is of, and the number of the first such unit. tiles: of one head."""
    head = unit // tiles
    is_before_S = ends_S <= unit - head * tiles
    first = head * tiles + tl.sum(tl.where(is_before_S, tiles_S, 0), axis=0)
    return head, tl.sum(is_before_S.to(tl.int32), axis=0), first


@triton.jit
def _pick(value_S, index):
    """value_S[index]."""
    return tl.sum(tl.where(tl.arange(0, value_S.shape[0]) == index, value_S, 0), axis=0)


@triton.jit
def _first_position(length, window, WINDOWED: tl.constexpr):
    """The first position that the last of `length` tokens sees."""
    return tl.maximum(length - window, 0) if WINDOWED else 0


@triton.jit
def _load_parts(
    parts, stats, program_J, first, last,
    GROUP: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Sums, largest scores and weights in these programs' parts of a sequence; programs past the last have none."""
    head_G, column_D = tl.arange(0, HEADS), tl.arange(0, PADDED)
    # The program that began a sequence keeps it as its second part, the others as their first.
    part_J = program_J * 2 + (program_J == first).to(tl.int32)
    mask_JG = (program_J <= last)[:, None] & (head_G < GROUP)[None, :]
    at_JGD = (part_J[:, None, None] * GROUP + head_G[None, :, None]) * DIM + column_D[None, None, :]
    mask_JGD = mask_JG[:, :, None] & (column_D < DIM)[None, None, :]
    at_JG = stats + part_J[:, None] * (2 * GROUP) + head_G[None, :]
    # Past the first cache, which may hold what was there before the others wrote.
    sum_JGD = tl.load(parts + at_JGD, mask=mask_JGD, other=0.0, cache_modifier=".cg")
    largest_JG = tl.load(at_JG, mask=mask_JG, other=float("-inf"), cache_modifier=".cg")
    return sum_JGD, largest_JG, tl.load(at_JG + GROUP, mask=mask_JG, other=0.0, cache_modifier=".cg")


@triton.jit
def _join(
    parts, stats, counter, out, out_head_stride, first, last,
    GROUP: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Joins the parts of a sequence that programs first ... last share, PARTS at once, and resets its counter."""
    head_G, column_D = tl.arange(0, HEADS), tl.arange(0, PADDED)
    largest_G = tl.full([HEADS], float("-inf"), tl.float32)
    weight_G = tl.zeros([HEADS], tl.float32)
    sum_GD = tl.zeros([HEADS, PADDED], tl.float32)
    program_J = first + tl.arange(0, PARTS)
    sum_JGD, largest_JG, weight_JG = _load_parts(parts, stats, program_J, first, last, GROUP, HEADS, DIM, PADDED)
    for _ in range(first, last + 1, PARTS):
        # The next parts are on their way while these are added.
        program_J += PARTS
        next_JGD, next_largest_JG, next_weight_JG = _load_parts(
            parts, stats, program_J, first, last, GROUP, HEADS, DIM, PADDED
        )
        new_G = tl.maximum(largest_G, tl.max(largest_JG, axis=0))
        # Heads that only fill up the tile have no largest score; any finite base keeps NaN away.
        base_G = tl.where(new_G == float("-inf"), 0.0, new_G)
        scale_JG = tl.exp2(largest_JG - base_G[None, :])
        before_G = tl.exp2(largest_G - base_G)
        weight_G = weight_G * before_G + tl.sum(weight_JG * scale_JG, axis=0)
        sum_GD = sum_GD * before_G[:, None] + tl.sum(sum_JGD * scale_JG[:, :, None], axis=0)
        largest_G, sum_JGD, largest_JG, weight_JG = new_G, next_JGD, next_largest_JG, next_weight_JG
    is_head_G = head_G < GROUP
    mean_GD = (sum_GD / tl.where(is_head_G, weight_G, 1.0)[:, None]).to(out.dtype.element_ty)
    at_GD = out + head_G[:, None] * out_head_stride + column_D[None, :]
    tl.store(at_GD, mean_GD, mask=is_head_G[:, None] & (column_D < DIM)[None, :])
    tl.store(counter, 0)


# What differs from step to step must not be compiled for: the compiler would stop requests for seconds.
@triton.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["row", "lengths"])
def _attend_decodes(
    q, keys, values, key_scale, value_scale, out, slot_table, row, lengths, parts, stats, counters, sequences, kv_heads,
    scale, window, q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    scale_stride, table_stride, out_stride, out_head_stride,
    SEQUENCES: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    PACKED: tl.constexpr, TILE: tl.constexpr, LEAST_TILES: tl.constexpr, WINDOWED: tl.constexpr, PARTS: tl.constexpr,
    JOINED_HEADS: tl.constexpr, PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
    index_S = tl.arange(0, SEQUENCES)
    length_S = tl.load(lengths + index_S, mask=index_S < sequences, other=0)
    row_S = tl.load(row + index_S, mask=index_S < sequences, other=0)
    tiles_S = tl.cdiv(length_S - _first_position(length_S, window, WINDOWED), TILE)
    ends_S = tl.cumsum(tiles_S, axis=0)
    tiles = tl.sum(tiles_S, axis=0)
    units = tiles * kv_heads
    programs = tl.minimum(tl.num_programs(0), tl.cdiv(units, LEAST_TILES))
    program = tl.program_id(0)
    if program >= programs:
        # If there is no work at all one program waits, lest this kernel end before those that it follows: the kernel
        # after it waits for no others.
        if program == 0:
            wait(DEPENDENT)
        return
    # Those without tokens come last.
    sequences = tl.sum((length_S > 0).to(tl.int32), axis=0)
    start, end = program * units // programs, (program + 1) * units // programs

    token_T, head_G, column_D = tl.arange(0, TILE), tl.arange(0, HEADS), tl.arange(0, PADDED)
    is_head_G, is_dim_D = head_G < GROUP, column_D < DIM
    # Of a head as it is stored.
    PACK: tl.constexpr = 2 if PACKED == 2 else 1
    column_E = tl.arange(0, PADDED // PACK)
    mask_GD = is_head_G[:, None] & is_dim_D[None, :]
    q_GD = q + head_G[:, None] * q_head_stride + column_D[None, :]
    out_GD = out + head_G[:, None] * out_head_stride + column_D[None, :]

    head, sequence, first = _locate(start, tiles, ends_S, tiles_S)
    length = _pick(length_S, sequence)
    seen = _first_position(length, window, WINDOWED)
    position = seen + (start - first) * TILE
    # What an earlier program may have begun, for the end.
    begun_head, begun_sequence, begun, begun_tiles = head, sequence, first, tl.cdiv(length - seen, TILE)
    slot_T = tl.load(
        slot_table + _pick(row_S, sequence) * table_stride + position + token_T,
        mask=token_T < length - position, other=0,
    )  # fmt: skip
    wait(DEPENDENT)
    largest_G = tl.full([HEADS], float("-inf"), tl.float32)
    weight_G = tl.zeros([HEADS], tl.float32)
    sum_GD = tl.zeros([HEADS, PADDED], tl.float32)
    top = tl.full([], LEAST_SCALE, tl.float32)
    for unit in range(start, end):
        # Slots are looked up a tile ahead, across the ends of sequences and heads, so that no copy waits for them.
        next_first = first + tl.cdiv(length - seen, TILE)
        is_last = unit + 1 == next_first
        next_first = tl.where(is_last, next_first, first)
        next_sequence = sequence + is_last.to(tl.int32)
        is_next_head = next_sequence == sequences
        next_sequence = tl.where(is_next_head, 0, next_sequence)
        next_head = head + is_next_head.to(tl.int32)
        next_length = tl.load(lengths + next_sequence)
        next_seen = _first_position(next_length, window, WINDOWED)
        next_position = next_seen + (unit + 1 - next_first) * TILE
        next_slot_T = tl.load(
            slot_table + tl.load(row + next_sequence) * table_stride + next_position + token_T,
            mask=token_T < next_length - next_position, other=0,
        )  # fmt: skip

        at_T, is_token_T = slot_T.to(tl.int64), token_T < length - position
        mask_TE = is_token_T[:, None] & (column_E < DIM // PACK)[None, :]
        key_TE = keys + head * keys_head_stride + at_T[:, None] * keys_stride + column_E[None, :]
        value_TE = values + head * values_head_stride + at_T[:, None] * values_stride + column_E[None, :]
        key_TD = numbers(tl.load(key_TE, mask=mask_TE, other=0.0), PACKED, q.dtype.element_ty)
        value_TD = numbers(tl.load(value_TE, mask=mask_TE, other=0.0), PACKED, q.dtype.element_ty)
        query_GD = q_GD + sequence.to(tl.int64) * q_stride + head * GROUP * q_head_stride
        query_GD = tl.load(query_GD, mask=mask_GD, other=0.0).to(key_TD.dtype)
        score_GT = tl.dot(query_GD, key_TD.T, input_precision=PRECISION) * scale
        if PACKED:
            score_GT *= tl.load(key_scale + at_T * scale_stride + head, mask=is_token_T, other=0.0)[None, :]
        score_GT = tl.where(is_token_T[None, :], score_GT, float("-inf"))
        new_G = tl.maximum(largest_G, tl.max(score_GT, axis=1))
        share_GT = tl.exp2(score_GT - new_G[:, None])
        before_G = tl.exp2(largest_G - new_G)
        weight_G = weight_G * before_G + tl.sum(share_GT, axis=1)
        if PACKED:
            value_scale_T = tl.load(value_scale + at_T * scale_stride + head, mask=is_token_T, other=0.0)
            share_GT, top, shrinks = scaled_shares(share_GT, value_scale_T, top)
            before_G *= shrinks
        sum_GD = tl.dot(share_GT.to(value_TD.dtype), value_TD, sum_GD * before_G[:, None], input_precision=PRECISION)
        largest_G = new_G

        if is_last | (unit + 1 == end):
            began_here = first >= start
            sum_GD = sum_GD * top if PACKED else sum_GD
            if is_last & began_here:
                mean_GD = (sum_GD / weight_G[:, None]).to(out.dtype.element_ty)
                to_GD = out_GD + sequence.to(tl.int64) * out_stride + head * GROUP * out_head_stride
                tl.store(to_GD, mean_GD, mask=mask_GD)
            else:
                part = program * 2 + began_here.to(tl.int32)
                tl.store(stats + part * (2 * GROUP) + head_G, largest_G, mask=is_head_G)
                tl.store(stats + part * (2 * GROUP) + GROUP + head_G, weight_G, mask=is_head_G)
                tl.store(parts + (part * GROUP + head_G)[:, None] * DIM + column_D[None, :], sum_GD, mask=mask_GD)
        largest_G = tl.where(is_last, float("-inf"), largest_G)
        weight_G = tl.where(is_last, 0.0, weight_G)
        sum_GD = tl.where(is_last, 0.0, sum_GD)
        top = tl.where(is_last, LEAST_SCALE, top)
        head, sequence, first, length, seen = next_head, next_sequence, next_first, next_length, next_seen
        position, slot_T = next_position, next_slot_T

    # What began before this program, and what goes on after it (unit `end` is of it) and began in it, has other parts.
    is_end = tl.arange(0, 2)
    is_shared = tl.where(is_end == 0, begun < start, (first >= start) & (first < end))
    of_first = tl.where(is_end == 0, begun, first)
    of_last = of_first + tl.where(is_end == 0, begun_tiles, tl.cdiv(length - seen, TILE)) - 1
    first_program, last_program = _owner(of_first, programs, units), _owner(of_last, programs, units)
    shared_head, shared_sequence = (
        tl.where(is_end == 0, begun_head, head),
        tl.where(is_end == 0, begun_sequence, sequence),
    )
    counter = counters + shared_sequence * kv_heads + shared_head
    # The parts of every thread are written before those threads count that do.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter, 1, mask=is_shared, sem="acq_rel")
    is_last_to_arrive = is_shared & (arrived == last_program - first_program)
    for which in tl.static_range(2):
        if _pick(is_last_to_arrive.to(tl.int32), which) == 1:
            joined_sequence, joined_head = _pick(shared_sequence, which), _pick(shared_head, which)
            _join(
                parts, stats, counters + joined_sequence * kv_heads + joined_head,
                out + joined_sequence.to(tl.int64) * out_stride + joined_head * GROUP * out_head_stride,
                out_head_stride, _pick(first_program, which), _pick(last_program, which),
                GROUP, JOINED_HEADS, DIM, PADDED, PARTS,
            )  # fmt: skip


def shape_for(dim: int, dtype: torch.dtype) -> Shape:
    """Few large tiles, as a tile costs a fixed time besides its bytes. Source: docs/performance-log.md."""
    if dtype == torch.float32:
        return Shape(tile=32, warps=4, stages=2, programs=2)
    if dim <= 64:
        return Shape(tile=128, warps=4, stages=4, programs=2)
    if dim == 128:
        return Shape(tile=128, warps=4, stages=3, programs=1)
    return Shape(tile=64 if dim < 128 else 32, warps=4, stages=3, programs=2)


def _shape(dim: int, dtype: torch.dtype, device: torch.device) -> Shape:
    """What was measured on this device, or else `shape_for`."""
    default = shape_for(dim, dtype)
    if dtype == torch.float32:
        return default
    return tuned.shape(device, "attend decodes", Shape, (dim,), default) or default


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
    scales: tuple[Tensor, Tensor] | None = None,
    shape: Shape | None = None,
) -> None:
    """As ops.attend for q [sequences, heads, dim], the only token of each; writes to out, which is like q.

    The last sequences may have length 0: nothing is read or written for them. scales: of keys and values, as
    ops.attend_quantized has them.
    """
    sequences, heads, dim = q.shape
    kv_heads = keys.shape[1]
    kind, packed = (keys.dtype, 0) if scales is None else (q.dtype, dim // keys.shape[2])
    # Tiles of 8 bytes a token, two numbers in each, gave wrong sums: Triton 3.6.
    group, padded = heads // kv_heads, max(next_power_of_2(dim), NARROWEST * max(packed, 1))
    joined_heads = next_power_of_2(group)
    shape = shape or _shape(dim, kind, q.device)
    dependent, device = depends(q.device), q.device
    programs = shape.programs * card(device).multiprocessors
    assert sequences * kv_heads <= ARRIVALS, f"{sequences} sequences of {kv_heads} key heads; at most {ARRIVALS} in all"
    parts = torch.empty(programs * 2 * group * dim, dtype=torch.float32, device=device)
    stats = torch.empty(programs * 2 * 2 * group, dtype=torch.float32, device=device)
    _attend_decodes[(programs,)](
        q, keys, values, *(scales or (None, None)), out, slot_table, row, lengths, parts, stats, arrivals(device),
        sequences, kv_heads, scale * LOG2_E, window or 0, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1),
        values.stride(0), values.stride(1), 0 if scales is None else scales[0].stride(0), slot_table.stride(0),
        out.stride(0), out.stride(1),
        SEQUENCES=max(next_power_of_2(sequences), 128), GROUP=group, HEADS=max(joined_heads, NARROWEST),
        DIM=dim, PADDED=padded, PACKED=packed, TILE=shape.tile, LEAST_TILES=shape.least_tiles,
        WINDOWED=window is not None, PARTS=max(JOINED_NUMBERS // (joined_heads * padded), 1), JOINED_HEADS=joined_heads,
        PRECISION="ieee" if kind == torch.float32 else "tf32",
        DEPENDENT=dependent, launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
