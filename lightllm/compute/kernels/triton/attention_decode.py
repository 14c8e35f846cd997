# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of sequences that run one token each, over the slot table: the cost is reading keys and values once.

One wave of programs shares the work evenly whatever the lengths. A sequence's keys are cut into tiles of TILE tokens;
the tiles of all sequences are counted through, and each program takes a run of this count, for one key head and all
the query heads that share it. So a program finishes some sequences by itself and holds a part of at most two that
others work on too: one that an earlier program began, and one that a later program ends. Such parts go to memory, and
the last program to arrive at a sequence joins its parts. Everything but the number of sequences is read on the
device, so that a graph captured once serves all lengths.

Suffixes: S sequences, T tokens of a tile, G query heads of a key head, D numbers of a head, J parts to be joined.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, card, depends, release, wait

LOG2_E = 1.4426950408889634
NARROWEST = 16  # rows and columns of the smallest matrix product
JOINED_NUMBERS = 4096  # of parts that are read at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: of one multiprocessor at once; least_tiles: less than this is not worth a share."""

    tile: int
    warps: int
    stages: int
    programs: int
    least_tiles: int


@triton.jit
def _owner(tile, programs, tiles):
    """Which of `programs` has this tile, where program p has tiles p * tiles // programs up to the next one's."""
    return ((tile + 1) * programs - 1) // tiles


@triton.jit
def _locate(tile, ends_S, tiles_S):
    """The sequence that a tile is of, and the number of that sequence's first tile."""
    is_before_S = ends_S <= tile
    return tl.sum(is_before_S.to(tl.int32), axis=0), tl.sum(tl.where(is_before_S, tiles_S, 0), axis=0)


@triton.jit
def _first(length, window, WINDOWED: tl.constexpr):
    """The first position that the last of `length` tokens sees."""
    return tl.maximum(length - window, 0) if WINDOWED else 0


@triton.jit
def _join(
    parts, stats, counters, out, sequence, first_tile, tiles, of_all, programs, kv_head, kv_heads,
    out_stride, out_head_stride,
    GROUP: tl.constexpr, PARTS: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Counts this program as arrived at a sequence; if it is the last one, joins all parts."""
    first = _owner(first_tile, programs, of_all)
    last = _owner(first_tile + tiles - 1, programs, of_all)
    counter = counters + sequence * kv_heads + kv_head
    # The part of every thread is written before the one thread that counts does so.
    tl.debug_barrier()
    if tl.atomic_add(counter, 1, sem="acq_rel") == last - first:
        head_G, column_D = tl.arange(0, HEADS), tl.arange(0, PADDED)
        is_head_G = head_G < GROUP
        largest_G = tl.full([HEADS], float("-inf"), tl.float32)
        weight_G = tl.zeros([HEADS], tl.float32)
        sum_GD = tl.zeros([HEADS, PADDED], tl.float32)
        for start in range(first, last + 1, PARTS):
            program_J = start + tl.arange(0, PARTS)
            # The program that began a sequence keeps it as its second part, the others as their first.
            part_J = (program_J * kv_heads + kv_head) * 2 + (program_J == first).to(tl.int32)
            mask_JG = (program_J <= last)[:, None] & is_head_G[None, :]
            at_JG = part_J[:, None] * (2 * GROUP) + head_G[None, :]
            # Past the first cache, which may hold what was there before the others wrote.
            part_largest_JG = tl.load(stats + at_JG, mask=mask_JG, other=float("-inf"), cache_modifier=".cg")
            part_weight_JG = tl.load(stats + at_JG + GROUP, mask=mask_JG, other=0.0, cache_modifier=".cg")
            new_G = tl.maximum(largest_G, tl.max(part_largest_JG, axis=0))
            # Heads that only fill up the tile have no largest score; any finite one keeps NaN away.
            base_G = tl.where(is_head_G, new_G, 0.0)
            scale_JG = tl.exp2(part_largest_JG - base_G[None, :])
            before_G = tl.exp2(largest_G - base_G)
            at_JGD = (part_J[:, None, None] * GROUP + head_G[None, :, None]) * DIM + column_D[None, None, :]
            mask_JGD = mask_JG[:, :, None] & (column_D < DIM)[None, None, :]
            part_JGD = tl.load(parts + at_JGD, mask=mask_JGD, other=0.0, cache_modifier=".cg")
            weight_G = weight_G * before_G + tl.sum(part_weight_JG * scale_JG, axis=0)
            sum_GD = sum_GD * before_G[:, None] + tl.sum(part_JGD * scale_JG[:, :, None], axis=0)
            largest_G = new_G
        at_GD = out + sequence.to(tl.int64) * out_stride + (kv_head * GROUP + head_G)[:, None] * out_head_stride
        mask_GD = is_head_G[:, None] & (column_D < DIM)[None, :]
        mean_GD = sum_GD / tl.where(is_head_G, weight_G, 1.0)[:, None]
        tl.store(at_GD + column_D[None, :], mean_GD.to(out.dtype.element_ty), mask=mask_GD)
        tl.store(counter, 0)


@triton.jit
def _attend_decodes(
    q, keys, values, out, slot_table, row, lengths, parts, stats, counters, sequences, scale, window,
    q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    table_stride, out_stride, out_head_stride,
    SEQUENCES: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
    TILE: tl.constexpr, LEAST_TILES: tl.constexpr, WINDOWED: tl.constexpr, PARTS: tl.constexpr,
    JOINED_HEADS: tl.constexpr, PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    kv_head, kv_heads = tl.program_id(1), tl.num_programs(1)
    wait(DEPENDENT)
    release(DEPENDENT)
    index_S = tl.arange(0, SEQUENCES)
    length_S = tl.load(lengths + index_S, mask=index_S < sequences, other=0)
    tiles_S = tl.cdiv(length_S - _first(length_S, window, WINDOWED), TILE)
    ends_S = tl.cumsum(tiles_S, axis=0)
    tiles = tl.sum(tiles_S, axis=0)
    programs = tl.minimum(tl.num_programs(0), tl.cdiv(tiles, LEAST_TILES))
    program = tl.program_id(0)
    if program >= programs:
        return
    begin, end = program * tiles // programs, (program + 1) * tiles // programs

    token_T, head_G, column_D = tl.arange(0, TILE), tl.arange(0, HEADS), tl.arange(0, PADDED)
    is_dim_D = column_D < DIM
    mask_GD = (head_G < GROUP)[:, None] & is_dim_D[None, :]
    keys += kv_head * keys_head_stride
    values += kv_head * values_head_stride
    q_GD = q + (kv_head * GROUP + head_G)[:, None] * q_head_stride + column_D[None, :]
    out_GD = out + (kv_head * GROUP + head_G)[:, None] * out_head_stride + column_D[None, :]
    part = (program * kv_heads + kv_head) * 2

    sequence, first_tile = _locate(begin, ends_S, tiles_S)
    length = tl.load(lengths + sequence)
    first = _first(length, window, WINDOWED)
    position = first + (begin - first_tile) * TILE
    slot_T = tl.load(
        slot_table + tl.load(row + sequence) * table_stride + position + token_T,
        mask=token_T < length - position, other=0,
    )  # fmt: skip
    largest_G = tl.full([HEADS], float("-inf"), tl.float32)
    weight_G = tl.zeros([HEADS], tl.float32)
    sum_GD = tl.zeros([HEADS, PADDED], tl.float32)
    for tile in range(begin, end):
        # Slots are looked up a tile ahead, across the ends of sequences, so that no copy waits for them.
        next_first_tile = first_tile + tl.cdiv(length - first, TILE)
        is_last = tile + 1 == next_first_tile
        next_sequence = tl.minimum(sequence + is_last.to(tl.int32), sequences - 1)
        next_first_tile = tl.where(is_last, next_first_tile, first_tile)
        next_length = tl.load(lengths + next_sequence)
        next_first = _first(next_length, window, WINDOWED)
        next_position = next_first + (tile + 1 - next_first_tile) * TILE
        next_slot_T = tl.load(
            slot_table + tl.load(row + next_sequence) * table_stride + next_position + token_T,
            mask=token_T < next_length - next_position, other=0,
        )  # fmt: skip

        at_T, is_token_T = slot_T.to(tl.int64), token_T < length - position
        mask_TD = is_token_T[:, None] & is_dim_D[None, :]
        key_TD = tl.load(keys + at_T[:, None] * keys_stride + column_D[None, :], mask=mask_TD, other=0.0)
        value_TD = tl.load(values + at_T[:, None] * values_stride + column_D[None, :], mask=mask_TD, other=0.0)
        query_GD = tl.load(q_GD + sequence.to(tl.int64) * q_stride, mask=mask_GD, other=0.0).to(key_TD.dtype)
        score_GT = tl.dot(query_GD, key_TD.T, input_precision=PRECISION) * scale
        score_GT = tl.where(is_token_T[None, :], score_GT, float("-inf"))
        new_G = tl.maximum(largest_G, tl.max(score_GT, axis=1))
        share_GT = tl.exp2(score_GT - new_G[:, None])
        before_G = tl.exp2(largest_G - new_G)
        weight_G = weight_G * before_G + tl.sum(share_GT, axis=1)
        sum_GD = tl.dot(share_GT.to(value_TD.dtype), value_TD, sum_GD * before_G[:, None], input_precision=PRECISION)
        largest_G = new_G

        if is_last | (tile + 1 == end):
            began_here = first_tile >= begin
            if is_last & began_here:
                mean_GD = (sum_GD / weight_G[:, None]).to(out.dtype.element_ty)
                tl.store(out_GD + sequence.to(tl.int64) * out_stride, mean_GD, mask=mask_GD)
            else:
                which = part + began_here.to(tl.int32)
                is_head_G = head_G < GROUP
                tl.store(stats + which * (2 * GROUP) + head_G, largest_G, mask=is_head_G)
                tl.store(stats + which * (2 * GROUP) + GROUP + head_G, weight_G, mask=is_head_G)
                at_GD = (which * GROUP + head_G)[:, None] * DIM + column_D[None, :]
                tl.store(parts + at_GD, sum_GD, mask=mask_GD)
        largest_G = tl.where(is_last, float("-inf"), largest_G)
        weight_G = tl.where(is_last, 0.0, weight_G)
        sum_GD = tl.where(is_last, 0.0, sum_GD)
        sequence, first_tile, length, first = next_sequence, next_first_tile, next_length, next_first
        position, slot_T = next_position, next_slot_T

    for which in tl.static_range(2):
        sequence, first_tile = _locate(begin if which == 0 else end - 1, ends_S, tiles_S)
        length = tl.load(lengths + sequence)
        count = tl.cdiv(length - _first(length, window, WINDOWED), TILE)
        # First the sequence that began before this program; then the one that ends after it and began in it.
        is_shared = first_tile < begin if which == 0 else (first_tile >= begin) & (first_tile + count > end)
        if is_shared:
            _join(
                parts, stats, counters, out, sequence, first_tile, count, tiles, programs, kv_head, kv_heads,
                out_stride, out_head_stride, GROUP, PARTS, JOINED_HEADS, DIM, PADDED,
            )  # fmt: skip


def shape_for(dim: int, dtype: torch.dtype) -> Shape:
    """Tiles of about 16 KiB of keys: enough in flight with three to a program, and room for two programs."""
    if dtype == torch.float32:
        return Shape(tile=32, warps=4, stages=2, programs=2, least_tiles=2)
    return Shape(tile=64 if dim <= 128 else 32, warps=4, stages=3, programs=2, least_tiles=2)


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
) -> None:
    """As ops.attend for q [sequences, heads, dim], the only token of each; writes to out, which is like q."""
    sequences, heads, dim = q.shape
    kv_heads = keys.shape[1]
    group, padded = heads // kv_heads, max(triton.next_power_of_2(dim), NARROWEST)
    joined_heads = triton.next_power_of_2(group)
    shape = shape or shape_for(dim, keys.dtype)
    dependent, device = depends(q.device), q.device
    programs = max(shape.programs * card(device).multiprocessors // kv_heads, 1)
    assert sequences * kv_heads <= ARRIVALS, f"{sequences} sequences of {kv_heads} key heads; at most {ARRIVALS} in all"
    parts = torch.empty(programs * kv_heads * 2 * group * dim, dtype=torch.float32, device=device)
    stats = torch.empty(programs * kv_heads * 2 * 2 * group, dtype=torch.float32, device=device)
    _attend_decodes[(programs, kv_heads)](
        q, keys, values, out, slot_table, row, lengths, parts, stats, arrivals(device), sequences,
        scale * LOG2_E, window or 0, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0),
        values.stride(1), slot_table.stride(0), out.stride(0), out.stride(1),
        SEQUENCES=max(triton.next_power_of_2(sequences), 128), GROUP=group, HEADS=max(joined_heads, NARROWEST),
        DIM=dim, PADDED=padded, TILE=shape.tile, LEAST_TILES=shape.least_tiles, WINDOWED=window is not None,
        PARTS=max(JOINED_NUMBERS // (joined_heads * padded), 1), JOINED_HEADS=joined_heads,
        PRECISION="ieee" if keys.dtype == torch.float32 else "tf32", DEPENDENT=dependent, launch_pdl=dependent,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
