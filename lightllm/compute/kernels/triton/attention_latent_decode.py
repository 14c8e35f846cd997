# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention over latents for sequences that run one token each: one vector a token is the key of all heads, and its
first numbers are their value.

The work is cut as in attention_decode.py, whose description comes first; in the place of key heads there are blocks of
HEADS query heads. A program attends to one run of tiles after another, each of one sequence and block, so that queries
are loaded once a run. A tile is loaded once, for scores and for sums. Where the pool has scales, a latent's multiplies
its score and its share: see kv_formats.py.

Suffixes: S sequences, T tokens of a tile, G query heads of a block, D numbers of a value, E of the key's others.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.attention_decode import LOG2_E, _join, _locate, _owner, _pick
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

MOST_HEADS = 64  # of a block: the rows of the matrix unit's products
MOST_JOINED_HEADS = 8  # whose parts are joined at once


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: of one multiprocessor at once; least_tiles: less than this is not worth a share."""

    tile: int
    warps: int
    stages: int
    programs: int = 1
    least_tiles: int = 4


@triton.jit
def _attend_tile(
    sum_GD, largest_G, weight_G, top, query_GD, query_GE, latents, latent_scale, slot_T, is_token_T, latents_stride,
    scale_stride, scale,
    RANK: tl.constexpr, PADDED: tl.constexpr, DIM: tl.constexpr, REST: tl.constexpr, PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds a tile of tokens to the running softmax. top: the largest scale so far."""
    STORED: tl.constexpr = 2 if PACKED == 2 else 1
    column_D, column_E = tl.arange(0, PADDED // STORED), tl.arange(0, REST // STORED)
    latent_T = latents + slot_T.to(tl.int64) * latents_stride
    mask_TD, mask_TE = is_token_T[:, None], is_token_T[:, None]
    if RANK < PADDED:
        mask_TD = mask_TD & (column_D < RANK // STORED)[None, :]
    if DIM < REST:
        mask_TE = mask_TE & (column_E < DIM // STORED)[None, :]
    value_TD = tl.load(latent_T[:, None] + column_D[None, :], mask=mask_TD, other=0.0)
    other_TE = tl.load(latent_T[:, None] + (RANK // STORED + column_E)[None, :], mask=mask_TE, other=0.0)
    value_TD, other_TE = numbers(value_TD, PACKED, query_GD.dtype), numbers(other_TE, PACKED, query_GD.dtype)
    score_GT = tl.dot(query_GE, other_TE.T, input_precision=PRECISION)
    score_GT = tl.dot(query_GD, value_TD.T, score_GT, input_precision=PRECISION) * scale
    scale_T = slot_T
    if PACKED:
        scale_T = tl.load(latent_scale + slot_T.to(tl.int64) * scale_stride, mask=is_token_T, other=0.0)
        score_GT *= scale_T[None, :]
    score_GT = tl.where(is_token_T[None, :], score_GT, float("-inf"))
    new_G = tl.maximum(largest_G, tl.max(score_GT, axis=1))
    share_GT = tl.exp2(score_GT - new_G[:, None])
    before_G = tl.exp2(largest_G - new_G)
    weight_G = weight_G * before_G + tl.sum(share_GT, axis=1)
    if PACKED:
        share_GT, top, shrinks = scaled_shares(share_GT, scale_T, top)
        before_G *= shrinks
    sum_GD = tl.dot(share_GT.to(value_TD.dtype), value_TD, sum_GD * before_G[:, None], input_precision=PRECISION)
    return sum_GD, new_G, weight_G, top


# What differs from step to step must not be compiled for: the compiler would stop requests for seconds.
@triton.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["row", "lengths"])
def _attend_decodes(
    q, latents, latent_scale, out, slot_table, row, lengths, parts, stats, counters, sequences, blocks, scale,
    q_stride, q_head_stride, latents_stride, scale_stride, table_stride, out_stride, out_head_stride,
    SEQUENCES: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, RANK: tl.constexpr, PADDED: tl.constexpr,
    DIM: tl.constexpr, REST: tl.constexpr, PACKED: tl.constexpr, TILE: tl.constexpr, LEAST_TILES: tl.constexpr,
    PARTS: tl.constexpr, JOINED_HEADS: tl.constexpr, PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
    index_S = tl.arange(0, SEQUENCES)
    length_S = tl.load(lengths + index_S, mask=index_S < sequences, other=0)
    tiles_S = tl.cdiv(length_S, TILE)
    ends_S = tl.cumsum(tiles_S, axis=0)
    tiles = tl.sum(tiles_S, axis=0)
    units = tiles * blocks
    programs, program = tl.minimum(tl.num_programs(0), tl.cdiv(units, LEAST_TILES)), tl.program_id(0)
    if program >= programs:
        # See attention_decode.
        if program == 0:
            wait(DEPENDENT)
        return
    # Those without tokens come last.
    sequences = tl.sum((length_S > 0).to(tl.int32), axis=0)
    start, end = program * units // programs, (program + 1) * units // programs

    token_T, head_G = tl.arange(0, TILE), tl.arange(0, HEADS)
    column_D, column_E = tl.arange(0, PADDED), tl.arange(0, REST)
    is_head_G = head_G < GROUP
    mask_GD = is_head_G[:, None] & (column_D < RANK)[None, :]
    mask_GE = is_head_G[:, None] & (column_E < DIM)[None, :]

    block, sequence, first = _locate(start, tiles, ends_S, tiles_S)
    # What an earlier program may have begun, for the end.
    begun_block, begun_sequence, begun, begun_tiles = block, sequence, first, tl.cdiv(_pick(length_S, sequence), TILE)
    wait(DEPENDENT)
    unit = start
    while unit < end:
        length = tl.load(lengths + sequence)
        after = first + tl.cdiv(length, TILE)
        stop = tl.minimum(after, end)
        query_G = q + sequence.to(tl.int64) * q_stride + (block * GROUP + head_G) * q_head_stride
        query_GD = tl.load(query_G[:, None] + column_D[None, :], mask=mask_GD, other=0.0)
        query_GE = tl.load(query_G[:, None] + (RANK + column_E)[None, :], mask=mask_GE, other=0.0)
        if PACKED == 0:
            query_GD, query_GE = query_GD.to(latents.dtype.element_ty), query_GE.to(latents.dtype.element_ty)
        slots = slot_table + tl.load(row + sequence) * table_stride
        largest_G = tl.full([HEADS], float("-inf"), tl.float32)
        weight_G = tl.zeros([HEADS], tl.float32)
        sum_GD = tl.zeros([HEADS, PADDED], tl.float32)
        top = tl.full([], LEAST_SCALE, tl.float32)
        position_T = (unit - first) * TILE + token_T
        slot_T = tl.load(slots + position_T, mask=position_T < length, other=0)
        for _ in range(unit, stop):
            # Slots are looked up a tile ahead, so that no copy waits for them.
            next_slot_T = tl.load(slots + position_T + TILE, mask=position_T + TILE < length, other=0)
            sum_GD, largest_G, weight_G, top = _attend_tile(
                sum_GD, largest_G, weight_G, top, query_GD, query_GE, latents, latent_scale, slot_T,
                position_T < length, latents_stride, scale_stride, scale, RANK, PADDED, DIM, REST, PACKED, PRECISION,
            )  # fmt: skip
            position_T += TILE
            slot_T = next_slot_T

        sum_GD = sum_GD * top if PACKED else sum_GD
        if (first >= start) & (stop == after):
            to_G = out + sequence.to(tl.int64) * out_stride + (block * GROUP + head_G) * out_head_stride
            mean_GD = (sum_GD / weight_G[:, None]).to(out.dtype.element_ty)
            tl.store(to_G[:, None] + column_D[None, :], mean_GD, mask=mask_GD)
        else:
            part = program * 2 + (first >= start).to(tl.int32)
            tl.store(stats + part * (2 * GROUP) + head_G, largest_G, mask=is_head_G)
            tl.store(stats + part * (2 * GROUP) + GROUP + head_G, weight_G, mask=is_head_G)
            tl.store(parts + (part * GROUP + head_G)[:, None] * RANK + column_D[None, :], sum_GD, mask=mask_GD)
        unit = stop
        is_done = stop == after
        first = tl.where(is_done, after, first)
        sequence += is_done.to(tl.int32)
        is_next_block = sequence == sequences
        sequence = tl.where(is_next_block, 0, sequence)
        block += is_next_block.to(tl.int32)

    # What began before this program, and what goes on after it (unit `end` is of it) and began in it, has other parts.
    is_end = tl.arange(0, 2)
    is_shared = tl.where(is_end == 0, begun < start, (first >= start) & (first < end))
    of_first = tl.where(is_end == 0, begun, first)
    last_tiles = tl.cdiv(tl.load(lengths + sequence), TILE)
    of_last = of_first + tl.where(is_end == 0, begun_tiles, last_tiles) - 1
    first_program, last_program = _owner(of_first, programs, units), _owner(of_last, programs, units)
    shared_block = tl.where(is_end == 0, begun_block, block)
    shared_sequence = tl.where(is_end == 0, begun_sequence, sequence)
    # The parts of every thread are written before those threads count that do.
    tl.debug_barrier()
    counter = counters + shared_sequence * blocks + shared_block
    arrived = tl.atomic_add(counter, 1, mask=is_shared, sem="acq_rel")
    is_last_to_arrive = is_shared & (arrived == last_program - first_program)
    for which in tl.static_range(2):
        if _pick(is_last_to_arrive.to(tl.int32), which) == 1:
            joined_sequence, joined_block = _pick(shared_sequence, which), _pick(shared_block, which)
            to = out + joined_sequence.to(tl.int64) * out_stride + joined_block * GROUP * out_head_stride
            joined_counter = counters + joined_sequence * blocks + joined_block
            for head in range(0, GROUP, JOINED_HEADS):
                _join(
                    parts + head * RANK, stats + head, joined_counter, to + head * out_head_stride, out_head_stride,
                    _pick(first_program, which), _pick(last_program, which), GROUP, JOINED_HEADS, RANK, PADDED, PARTS,
                )  # fmt: skip


def shape_for(heads: int, dtype: torch.dtype, *, is_scaled: bool = False) -> Shape:
    """heads: of a block; is_scaled: the pool has scales. Source: docs/performance-log.md."""
    if dtype == torch.float32:
        return Shape(tile=16, warps=4, stages=2)
    return Shape(tile=64 if heads <= 16 and not is_scaled else 32, warps=8, stages=3)


def group_for(heads: int) -> int:
    """How many heads a block has: as many as fit, and a divisor of all."""
    return next(group for group in range(min(heads, MOST_HEADS), 0, -1) if heads % group == 0)


def attend_decodes(
    q: Tensor,
    latents: Tensor,
    rank: int,
    slot_table: Tensor,
    row: Tensor,
    lengths: Tensor,
    scale: float,
    out: Tensor,
    *,
    latent_scale: Tensor | None = None,
    shape: Shape | None = None,
) -> None:
    """softmax(scale q L^T) L[:, :rank] over each sequence's latents L, for its only token; writes to out.

    q [sequences, heads, rank + dim]; out [sequences, heads, rank]. Where tokens are: see ops.attend. The last
    sequences may have length 0: nothing is read or written for them. latent_scale: see ops.attend_latent_quantized.
    """
    sequences, heads, width = q.shape
    group, device = group_for(heads), q.device
    blocks, joined_heads = heads // group, min(group & -group, MOST_JOINED_HEADS)
    kind, packed = (latents.dtype, 0) if latent_scale is None else (q.dtype, width // latents.shape[1])
    # See attention_decode.
    narrowest = NARROWEST * max(packed, 1)
    padded, rest = (max(next_power_of_2(size), narrowest) for size in (rank, width - rank))
    shape = shape or shape_for(group, kind, is_scaled=latent_scale is not None)
    joined_numbers = 1 << (13 if group <= 16 else 12)  # beside larger sums there are fewer registers for more
    dependent, programs = depends(device), shape.programs * card(device).multiprocessors
    assert sequences * blocks <= ARRIVALS, f"{sequences} sequences of {blocks} blocks of heads; at most {ARRIVALS}"
    parts = torch.empty(programs * 2 * group * rank, dtype=torch.float32, device=device)
    stats = torch.empty(programs * 2 * 2 * group, dtype=torch.float32, device=device)
    _attend_decodes[(programs,)](
        q, latents, latent_scale, out, slot_table, row, lengths, parts, stats, arrivals(device), sequences, blocks,
        scale * LOG2_E, q.stride(0), q.stride(1), latents.stride(0),
        0 if latent_scale is None else latent_scale.stride(0), slot_table.stride(0), out.stride(0), out.stride(1),
        SEQUENCES=max(next_power_of_2(sequences), 128), GROUP=group, HEADS=max(next_power_of_2(group), NARROWEST),
        RANK=rank, PADDED=padded, DIM=width - rank, REST=rest, PACKED=packed, TILE=shape.tile,
        LEAST_TILES=shape.least_tiles, PARTS=max(joined_numbers // (joined_heads * padded), 1),
        JOINED_HEADS=joined_heads, PRECISION="ieee" if kind == torch.float32 else "tf32", DEPENDENT=dependent,
        launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
