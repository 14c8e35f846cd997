# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of many heads over latents on Hopper, for sequences that run one token each.

The work is cut as in attention_decode.py, whose description comes first; in the place of key heads there are blocks of
up to ROWS query heads. A program has four groups of four warps. One copies tiles of TILE latents by their slots. One
multiplies them with the queries, and while the matrix unit is at the next tile's scores makes shares of this one's.
Two add up values weighted by shares, each for half of the numbers of a value, as the sums of one block fill the
registers of two groups. A tile is read from memory once, for its scores and for both halves.
In Gluon, Triton's lower level, because Triton cannot be told which warps do what.

Suffixes: S sequences, T tokens of a tile, R query heads of a block, D numbers of half a value.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.kernels.triton.attention_decode_hopper import _is_last_tile, _locate, _next, _slots
from lightllm.compute.kernels.triton.attention_join import EVEN_TILES, FEWEST_SEQUENCES, even_programs, join, room
from lightllm.compute.kernels.triton.attention_latent_decode import MOST_HEADS, group_for
from lightllm.compute.kernels.triton.launch import card, next_power_of_2

ROWS = gl.constexpr(MOST_HEADS)  # heads of a block: the height of a matrix instruction
HALF = gl.constexpr(256)  # numbers of half a value: the widest matrix instruction
REST = gl.constexpr(64)  # numbers of a key that are not of its value
TILE = gl.constexpr(32)  # four tiles beside the queries fill shared memory
STAGES = gl.constexpr(4)
GROWTH = gl.constexpr(8.0)  # of shares, as a power of two, before they are scaled down
PLACES = gl.constexpr(2)  # for shares of a tile
WARPS = 4  # of each group
SUM_REGISTERS, COPY_REGISTERS = 176, 40  # of a thread; those that score have what is left
LEAST_TILES = gl.constexpr(4)  # less than this is not worth a share


@gluon.jit
def _most_tiles(lengths, sequences, SEQUENCES: gl.constexpr):
    """Of a sequence."""
    index_S = gl.arange(0, SEQUENCES, gl.BlockedLayout([1], [32], [4], [0]))
    return gl.max(gl.cdiv(gl.load(lengths + index_S, mask=index_S < sequences, other=0), TILE), axis=0)


@gluon.jit
def _advance(unit, cursor, lengths, sequences):
    """_next, which loads a length only where a sequence ends."""
    block, sequence, first, length, seen = cursor
    if _is_last_tile(unit, cursor, TILE):
        block, sequence, first, length, seen = _next(unit, cursor, lengths, sequences, 0, TILE, False)
    return block, sequence, first, length, seen


@gluon.jit
def _copy_queries(q, cursor, q_stride, q_head_stride, queries, others, GROUP: gl.constexpr):
    """Copies a block's queries to shared memory, zeros for heads that only fill it up."""
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    block, sequence = cursor[0], cursor[1]
    head_R = gl.arange(0, ROWS, gl.SliceLayout(1, COPY))
    column_D = gl.arange(0, HALF, gl.SliceLayout(0, COPY))
    column_E = gl.arange(0, REST, gl.SliceLayout(0, COPY))
    from_R = q + sequence.to(gl.int64) * q_stride + (block * GROUP + head_R) * q_head_stride
    mask_RD = (head_R < GROUP)[:, None]
    for half in gl.static_range(2):
        from_RD = from_R[:, None] + (half * HALF + column_D)[None, :]
        async_copy.async_copy_global_to_shared(queries.index(half), from_RD, mask=mask_RD)
    from_RE = from_R[:, None] + (2 * HALF + column_E)[None, :]
    async_copy.async_copy_global_to_shared(others, from_RE, mask=mask_RD)
    async_copy.commit_group()
    async_copy.wait_group(0)
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def _ask_scores(stage, buffers, SCORES: gl.constexpr):
    """Begins the products of queries with a tile."""
    queries, other_queries, values, others = buffers[0], buffers[1], buffers[2], buffers[3]
    score_RT = warpgroup_mma(
        queries.index(0), values.index(2 * stage).permute((1, 0)), gl.zeros([ROWS, TILE], gl.float32, SCORES),
        use_acc=False, is_async=True,
    )  # fmt: skip
    score_RT = warpgroup_mma(queries.index(1), values.index(2 * stage + 1).permute((1, 0)), score_RT, is_async=True)
    return warpgroup_mma(other_queries, others.index(stage).permute((1, 0)), score_RT, is_async=True)


@gluon.jit
def _score(memory, work, buffers, barriers, GROUP: gl.constexpr):
    """What the group of warps does that makes shares of scores."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    q, q_stride, q_head_stride = memory[0], memory[2], memory[3]
    stats, lengths, sequences = memory[7], memory[8], memory[9]
    start, end, program, scale, cursor = work
    queries, other_queries, shares, earlier, weights = buffers[0], buffers[1], buffers[4], buffers[5], buffers[6]
    ready, share_ready, share_free = barriers[0], barriers[2], barriers[3]
    row_R = gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))
    token_T = gl.arange(0, TILE, gl.SliceLayout(0, SCORES))
    largest_R = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    weight_R = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
    _copy_queries(q, cursor, q_stride, q_head_stride, queries, other_queries, GROUP)
    mbarrier.wait(ready.index(0), 0, pred=start < end)
    score_RT = warpgroup_mma_wait(0, deps=(_ask_scores(0, buffers, SCORES),))
    for unit in range(start, end):
        number = unit - start
        place, later = number % PLACES, (number + 1) % STAGES
        first, length = cursor[2], cursor[3]
        is_last, goes_on = _is_last_tile(unit, cursor, TILE), unit + 1 < end
        after = _advance(unit, cursor, lengths, sequences)
        if is_last & goes_on:
            _copy_queries(q, after, q_stride, q_head_stride, queries, other_queries, GROUP)
        # Past the end these are products of what lies there, which nobody reads.
        mbarrier.wait(ready.index(later), (number + 1) // STAGES & 1, pred=goes_on)
        next_RT = _ask_scores(later, buffers, SCORES)

        is_token_T = (unit - first) * TILE + token_T < length
        score_RT = gl.where(is_token_T[None, :], score_RT * scale, float("-inf"))
        # Scaling all sums down is seldom needed if shares may grow a little.
        new_R = gl.max(score_RT, axis=1)
        new_R = gl.where(new_R > largest_R + GROWTH, new_R, largest_R)
        share_RT = gl.exp2(score_RT - new_R[:, None])
        before_R = gl.exp2(largest_R - new_R)
        weight_R = weight_R * before_R + gl.sum(share_RT, axis=1)
        mbarrier.wait(share_free.index(place), (number // PLACES & 1) ^ 1)
        shares.index(place).store(share_RT.to(shares.dtype))
        earlier.index(place).store(before_R)
        weights.index(place).store(weight_R)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(share_ready.index(place), count=1)
        if (is_last | (unit + 1 == end)) & ((first < start) | (is_last == 0)):
            part = program * 2 + (first >= start).to(gl.int32)
            gl.store(stats + part * (2 * GROUP) + row_R, new_R, mask=row_R < GROUP)
            gl.store(stats + part * (2 * GROUP) + GROUP + row_R, weight_R, mask=row_R < GROUP)
        largest_R = gl.where(is_last, float("-inf"), new_R)
        weight_R = gl.where(is_last, 0.0, weight_R)
        cursor = after
        score_RT = warpgroup_mma_wait(0, deps=(next_RT,))


@gluon.jit
def _sum(WHICH: gl.constexpr, memory, work, buffers, barriers, GROUP: gl.constexpr):
    """What the group of warps does that adds up one half of the values."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    # Each warp has all rows, so that it needs no other to know the least of them.
    EVERY: gl.constexpr = gl.BlockedLayout([2], [32], [4], [0])
    out, out_stride, out_head_stride, parts = memory[1], memory[4], memory[5], memory[6]
    lengths, sequences = memory[8], memory[9]
    start, end, program, scale, cursor = work
    values, shares, earlier, weights = buffers[2], buffers[4], buffers[5], buffers[6]
    tile_free, share_ready, share_free = barriers[1], barriers[2], barriers[3]
    row_R = gl.arange(0, ROWS, gl.SliceLayout(1, SUMS))
    column_D = WHICH * HALF + gl.arange(0, HALF, gl.SliceLayout(0, SUMS))
    sum_RD = gl.zeros([ROWS, HALF], gl.float32, SUMS)
    for unit in range(start, end):
        number = unit - start
        stage, place = number % STAGES, number % PLACES
        mbarrier.wait(share_ready.index(place), number // PLACES & 1)
        if gl.min(earlier.index(place).load(EVERY), axis=0) < 1.0:
            before_R = earlier.index(place).load(gl.SliceLayout(1, SUMS))
            sum_RD = sum_RD * before_R[:, None]
        sum_RD = warpgroup_mma(shares.index(place), values.index(2 * stage + WHICH), sum_RD, is_async=True)
        sum_RD = warpgroup_mma_wait(0, deps=(sum_RD,))
        mbarrier.arrive(tile_free.index(stage), count=1)
        block, sequence, first = cursor[0], cursor[1], cursor[2]
        is_last = _is_last_tile(unit, cursor, TILE)
        if is_last | (unit + 1 == end):
            began_here = first >= start
            if is_last & began_here:
                weight_R = weights.index(place).load(gl.SliceLayout(1, SUMS))
                mean_RD = (sum_RD / weight_R[:, None]).to(out.dtype.element_ty)
                to_R = out + sequence.to(gl.int64) * out_stride + (block * GROUP + row_R) * out_head_stride
                gl.store(to_R[:, None] + column_D[None, :], mean_RD, mask=(row_R < GROUP)[:, None])
            else:
                part = program * 2 + began_here.to(gl.int32)
                part_R = parts + (part * GROUP + row_R) * (2 * HALF)
                gl.store(part_R[:, None] + column_D[None, :], sum_RD, mask=(row_R < GROUP)[:, None])
            sum_RD = gl.zeros([ROWS, HALF], gl.float32, SUMS)
        mbarrier.arrive(share_free.index(place), count=1)
        cursor = _advance(unit, cursor, lengths, sequences)


@gluon.jit
def _copy(latents, latents_stride, table, lengths, sequences, work, buffers, barriers):
    """What the group of warps does that copies tiles. Its first wait for each stage returns at once."""
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    start, end, cursor = work[0], work[1], work[4]
    values, others = buffers[2], buffers[3]
    ready, tile_free = barriers[0], barriers[1]
    column_D = gl.arange(0, HALF, gl.SliceLayout(0, COPY))
    column_E = gl.arange(0, REST, gl.SliceLayout(0, COPY))
    slot_T, is_token_T = _slots(start, cursor, table, TILE, COPY)
    for unit in range(start, end):
        number = unit - start
        stage = number % STAGES
        latent_T = latents + slot_T.to(gl.int64) * latents_stride
        mask_TD = is_token_T[:, None]
        cursor = _advance(unit, cursor, lengths, sequences)
        # Slots are looked up a tile ahead, so that no copy waits for them.
        slot_T, is_token_T = _slots(unit + 1, cursor, table, TILE, COPY)
        mbarrier.wait(tile_free.index(stage), (number // STAGES & 1) ^ 1)
        for half in gl.static_range(2):
            from_TD = latent_T[:, None] + (half * HALF + column_D)[None, :]
            async_copy.async_copy_global_to_shared(values.index(2 * stage + half), from_TD, mask=mask_TD)
        from_TE = latent_T[:, None] + (2 * HALF + column_E)[None, :]
        async_copy.async_copy_global_to_shared(others.index(stage), from_TE, mask=mask_TD)
        async_copy.commit_group()
        # The tile before this one is there when its copies are, and the matrix unit may read what they wrote.
        async_copy.wait_group(1)
        fence_async_shared()
        mbarrier.arrive(ready.index((number + STAGES - 1) % STAGES), count=1, pred=number > 0)
    async_copy.wait_group(0)
    fence_async_shared()
    mbarrier.arrive(ready.index((end - start + STAGES - 1) % STAGES), count=1, pred=end > start)


# What differs from step to step must not be compiled for: the compiler would stop requests for seconds.
@gluon.jit(do_not_specialize=["sequences", "even"], do_not_specialize_on_alignment=["row", "lengths"])
def _attend_decodes(
    q, latents, out, slot_table, row, lengths, parts, stats, sequences, blocks, even, scale,
    q_stride, q_head_stride, latents_stride, table_stride, out_stride, out_head_stride,
    SEQUENCES: gl.constexpr, GROUP: gl.constexpr, SUM_REGISTERS: gl.constexpr, COPY_REGISTERS: gl.constexpr,
):  # fmt: skip
    gdc_launch_dependents()
    element: gl.constexpr = latents.dtype.element_ty
    wide_query: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, HALF], element)
    wide_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, HALF], element)
    narrow_query: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, REST], element)
    narrow_tile: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, REST], element)
    share_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, TILE], element)
    line: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    queries = gl.allocate_shared_memory(element, [2, ROWS, HALF], wide_query)
    other_queries = gl.allocate_shared_memory(element, [ROWS, REST], narrow_query)
    values = gl.allocate_shared_memory(element, [2 * STAGES, TILE, HALF], wide_tile)
    others = gl.allocate_shared_memory(element, [STAGES, TILE, REST], narrow_tile)
    shares = gl.allocate_shared_memory(element, [PLACES, ROWS, TILE], share_layout)
    earlier = gl.allocate_shared_memory(gl.float32, [PLACES, ROWS], line)
    weights = gl.allocate_shared_memory(gl.float32, [PLACES, ROWS], line)
    buffers = (queries, other_queries, values, others, shares, earlier, weights)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    tile_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    share_ready = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    share_free = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        # Both groups that add up values have to be done with a tile; its scores were made before.
        mbarrier.init(tile_free.index(stage), count=2)
    for place in gl.static_range(PLACES):
        mbarrier.init(share_ready.index(place), count=1)
        mbarrier.init(share_free.index(place), count=2)
    barriers = (ready, tile_free, share_ready, share_free)

    program = gl.program_id(0)
    tiles, _, _, _ = _locate(0, lengths, sequences, 0, SEQUENCES, TILE, False)
    units = tiles * blocks
    are_even = (tiles == sequences * _most_tiles(lengths, sequences, SEQUENCES)) & (units <= EVEN_TILES * even)
    programs = gl.where(are_even, even, gl.num_programs(0))
    programs = gl.maximum(gl.minimum(programs, gl.cdiv(units, LEAST_TILES)), 1)
    gdc_wait()
    # Programs past the last one have no unit.
    start = gl.minimum(program, programs) * units // programs
    end = gl.minimum(program + 1, programs) * units // programs
    _, block, sequence, first = _locate(start, lengths, sequences, 0, SEQUENCES, TILE, False)
    block, sequence = gl.minimum(block, blocks - 1), gl.minimum(sequence, sequences - 1)
    length = gl.load(lengths + sequence)
    cursor = (block, sequence, first, length, length * 0)
    memory = (q, out, q_stride, q_head_stride, out_stride, out_head_stride, parts, stats, lengths, sequences)
    work = (start, end, program, scale, cursor)
    table = (slot_table, row, table_stride)
    gl.warp_specialize(
        [
            (_score, (memory, work, buffers, barriers, GROUP)),
            (_sum, (0, memory, work, buffers, barriers, GROUP)),
            (_sum, (1, memory, work, buffers, barriers, GROUP)),
            (_copy, (latents, latents_stride, table, lengths, sequences, work, buffers, barriers)),
        ],
        [4, 4, 4],
        [SUM_REGISTERS, SUM_REGISTERS, COPY_REGISTERS],
    )


def why_not(q: Tensor, latents: Tensor, rank: int) -> str | None:
    """The reason attend_decodes cannot take these, if there is one."""
    if latents.dtype not in (torch.float16, torch.bfloat16) or q.dtype != latents.dtype:
        return f"computes in 16 bits, not {q.dtype} and {latents.dtype}"
    if rank != 2 * HALF.value or q.shape[2] - rank != REST.value:
        return f"takes latents of {2 * HALF.value} and {REST.value} numbers, not {rank} and {q.shape[2] - rank}"
    if any(tensor.data_ptr() % 16 or any(size % 8 for size in tensor.stride()[:-1]) for tensor in (q, latents)):
        return "copies 16 bytes at a time, so vectors must begin at multiples of 16 bytes"
    return None


def attend_decodes(
    q: Tensor,
    latents: Tensor,
    rank: int,
    slot_table: Tensor,
    row: Tensor,
    lengths: Tensor,
    scale: float,
    out: Tensor,
) -> None:
    """As attention_latent_decode.attend_decodes."""
    sequences, heads, _ = q.shape
    group, programs = group_for(heads), card(q.device).multiprocessors
    blocks = heads // group
    parts, stats = room(programs, group, rank, q.device)
    _attend_decodes[(programs,)](
        q, latents, out, slot_table, row, lengths, parts, stats, sequences, blocks,
        even_programs(sequences * blocks, programs), scale * LOG2_E,
        q.stride(0), q.stride(1), latents.stride(0), slot_table.stride(0), out.stride(0), out.stride(1),
        SEQUENCES=max(next_power_of_2(sequences), FEWEST_SEQUENCES), GROUP=group,
        SUM_REGISTERS=SUM_REGISTERS, COPY_REGISTERS=COPY_REGISTERS, launch_pdl=True, num_warps=WARPS, maxnreg=128,
    )  # fmt: skip
    join(parts, stats, out, lengths, group=group, programs=programs, tile=TILE.value, least_tiles=LEAST_TILES.value)
