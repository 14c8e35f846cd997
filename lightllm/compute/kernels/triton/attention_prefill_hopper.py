# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of long chunks on Hopper: one warp copies keys and values, two groups of warps multiply.

The tensor copy engine fetches tiles of TILE tokens, without any warp computing addresses. Unless every context is known
to lie in a run of slots, what the slots hold is copied next to one another first, once a layer. Each group of warps has
ROWS rows of a block (a row is one query head of one token, as in attention_prefill). While the products share * V of
one tile run, a group computes the softmax of the next one, whose scores Q * K^T were issued before: the matrix unit
never waits for the exponentials. Tiles are taken from the last one down, so that those which need a mask come first.
Keys may have OTHERS more numbers that all heads share (the turned part of latent attention); else OTHERS is 0 and what
is named `other` is not used.
Source: arXiv:2407.08608, section 3.2. In Gluon, Triton's lower level, because Triton 3.6 cannot be told to do this.

Suffixes: S sequences, R rows, T tokens of a tile, C numbers of all key heads of a token.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.kernels.triton.attention_prefill import packed
from lightllm.compute.kernels.triton.descriptors import tiles_of
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, next_power_of_2

ROWS = gl.constexpr(64)  # of a group of warps: the height of a matrix instruction
REGISTERS = gl.constexpr(240)  # a thread of a group that multiplies: what is left by the one that copies
FEW_REGISTERS = gl.constexpr(24)
STAGES = {64: 3, 128: 2, 256: 2}  # tiles of keys, and as many of values, in shared memory, for each size of a head
TILES = {64: 128, 128: 128, 256: 64}
GATHERED_TOKENS, GATHERED_NUMBERS = 8, 512  # a program's


@triton.jit
def slots_of(
    slot_table, row, lengths, sequences, tokens, table_stride, SEQUENCES: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """Which of all sequences' tokens, counted end to end, a program has, whether they are there, and their slots."""
    index_S = tl.arange(0, SEQUENCES)
    length_S = tl.load(lengths + index_S, mask=index_S < sequences, other=0)
    token_T = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    is_token_T = token_T < tokens
    is_past_TS = tl.cumsum(length_S, axis=0)[None, :] <= token_T[:, None]
    sequence_T = tl.minimum(tl.sum(is_past_TS.to(tl.int32), axis=1), sequences - 1)
    position_T = token_T - tl.sum(tl.where(is_past_TS, length_S[None, :], 0), axis=1)
    slot_T = tl.load(slot_table + tl.load(row + sequence_T) * table_stride + position_T, mask=is_token_T, other=0)
    return token_T, is_token_T, slot_T.to(tl.int64)


@triton.jit(do_not_specialize=["sequences", "tokens"], do_not_specialize_on_alignment=["row", "lengths"])
def _gather(
    keys, values, key_run, value_run, slot_table, row, lengths, sequences, tokens, numbers,
    keys_stride, keys_head_stride, values_stride, values_head_stride, table_stride,
    SEQUENCES: tl.constexpr, DIM: tl.constexpr, TOKENS: tl.constexpr, NUMBERS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Copies what the slots of some sequences hold next to one another: key_run, value_run [tokens, numbers]."""
    begin(DEPENDENT)
    token_T, is_token_T, slot_T = slots_of(slot_table, row, lengths, sequences, tokens, table_stride, SEQUENCES, TOKENS)
    number_C = tl.program_id(1) * NUMBERS + tl.arange(0, NUMBERS)
    head_C, column_C = number_C // DIM, number_C % DIM
    mask_TC = is_token_T[:, None] & (number_C < numbers)[None, :]
    key_TC = keys + slot_T[:, None] * keys_stride + (head_C * keys_head_stride + column_C)[None, :]
    value_TC = values + slot_T[:, None] * values_stride + (head_C * values_head_stride + column_C)[None, :]
    to_TC = token_T.to(tl.int64)[:, None] * numbers + number_C[None, :]
    tl.store(key_run + to_TC, tl.load(key_TC, mask=mask_TC, other=0.0), mask=mask_TC)
    tl.store(value_run + to_TC, tl.load(value_TC, mask=mask_TC, other=0.0), mask=mask_TC)


@gluon.jit
def _tiles(count, length, block, window, PACK: gl.constexpr, TILE: gl.constexpr, WINDOWED: gl.constexpr):
    """Tiles that a block of rows sees anything of: from `first` on `tiles` many, taken from the last one down.

    Every row sees those from the `masked`-th taken to the `whole`-th taken entirely, without the latter.
    """
    first_position = length - count + block * (2 * ROWS) // PACK
    last_position = gl.minimum(length - count + (block * (2 * ROWS) + 2 * ROWS - 1) // PACK, length - 1)
    end = last_position // TILE + 1
    first, seen_by_last = 0, 0
    if WINDOWED:
        first = gl.maximum(first_position - window + 1, 0) // TILE
        seen_by_last = gl.maximum(last_position - window + TILE, 0) // TILE
    masked = gl.maximum(end - (first_position + 1) // TILE, 1)
    return first, end - first, masked, gl.maximum(end - gl.maximum(seen_by_last, first), masked)


@gluon.jit
def _softmax(
    score_RT, largest_R, weight_R, scale, position_R, token_T, window, MASKED: gl.constexpr, WINDOWED: gl.constexpr
):
    """Adds a tile to the running softmax. Returns its shares, and what earlier sums are to be multiplied by."""
    if MASKED:
        distance_RT = position_R[:, None] - token_T[None, :]
        is_seen_RT = (distance_RT >= 0) & (distance_RT < window) if WINDOWED else distance_RT >= 0
        score_RT = gl.where(is_seen_RT, score_RT, float("-inf"))
    new_R = gl.maximum(largest_R, gl.max(score_RT, axis=1) * scale)
    # A row may see nothing yet: then its largest score is -inf, and any finite base keeps NaN away.
    base_R = gl.where(new_R == float("-inf"), 0.0, new_R) if MASKED else new_R
    share_RT = gl.exp2(score_RT * scale - base_R[:, None])
    before_R = gl.exp2(largest_R - base_R)
    return share_RT, new_R, weight_R * before_R + gl.sum(share_RT, axis=1), before_R


@gluon.jit
def _ask_scores(query, stage, buffers, SCORES: gl.constexpr, TILE: gl.constexpr, OTHERS: gl.constexpr):
    """Begins the products of queries with a tile of keys."""
    _, key_tiles, _, other_tiles = buffers
    score_RT = warpgroup_mma(
        query[0], key_tiles.index(stage).permute((1, 0)), gl.zeros([ROWS, TILE], gl.float32, SCORES),
        use_acc=False, is_async=True,
    )  # fmt: skip
    if OTHERS:
        score_RT = warpgroup_mma(query[1], other_tiles.index(stage).permute((1, 0)), score_RT, is_async=True)
    return score_RT


@gluon.jit
def _add_tile(
    number, end, tiles, sum_RD, share_RT, largest_R, weight_R, scale, window, position_R, query, buffers, barriers,
    MASKED: gl.constexpr, WINDOWED: gl.constexpr, SCORES: gl.constexpr, SUMS: gl.constexpr, TILE: gl.constexpr,
    STAGES: gl.constexpr, OTHERS: gl.constexpr,
):  # fmt: skip
    """Scores and softmax of the `number`-th tile taken, with the sums of the tile taken before it.

    When called, the keys of this tile are there; when it returns, those of the next one are. end: after the last tile.
    """
    value_tiles = buffers[2]
    key_ready, key_free, value_ready, value_free = barriers
    stage, earlier, later = number % STAGES, (number - 1) % STAGES, (number + 1) % STAGES
    score_RT = _ask_scores(query, stage, buffers, SCORES, TILE, OTHERS)
    mbarrier.wait(value_ready.index(earlier), (number - 1) // STAGES & 1)
    sum_RD = warpgroup_mma(share_RT, value_tiles.index(earlier), sum_RD, is_async=True)
    score_RT = warpgroup_mma_wait(1, deps=(score_RT,))
    mbarrier.arrive(key_free.index(stage), count=1)
    token_T = (end - 1 - number) * TILE + gl.arange(0, TILE, gl.SliceLayout(0, SCORES))
    new_share_RT, largest_R, weight_R, before_R = _softmax(
        score_RT, largest_R, weight_R, scale, position_R, token_T, window, MASKED, WINDOWED
    )
    # Before the sums are waited for: a loop here is what keeps the assembler from moving that wait before the softmax.
    mbarrier.wait(key_ready.index(later), (number + 1) // STAGES & 1, pred=number + 1 < tiles)
    sum_RD, share_RT, new_share_RT = warpgroup_mma_wait(0, deps=(sum_RD, share_RT, new_share_RT))
    mbarrier.arrive(value_free.index(earlier), count=1)
    sum_RD = sum_RD * gl.convert_layout(before_R, gl.SliceLayout(1, SUMS))[:, None]
    share_RT = gl.convert_layout(new_share_RT.to(query[0].dtype), gl.DotOperandLayout(0, SUMS, 2))
    return sum_RD, share_RT, largest_R, weight_R


@gluon.jit
def _multiply(
    WHICH: gl.constexpr, memory, work, buffers, barriers,
    PACK: gl.constexpr, DIM: gl.constexpr, HEAD: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr,
    WINDOWED: gl.constexpr, OTHERS: gl.constexpr,
):  # fmt: skip
    """What one of the two groups of warps does: ROWS rows of the block, from queries to output."""
    q, other_q, out, q_stride, q_head_stride, other_q_stride, other_q_head_stride, out_stride, out_head_stride = memory
    first_query, count, length, pack, block, scale, window = work
    queries, _, value_tiles, _ = buffers
    key_ready, key_free, value_ready, value_free = barriers
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16])
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    first_row = block * (2 * ROWS) + WHICH * ROWS
    row_R = first_row + gl.arange(0, ROWS, gl.SliceLayout(1, MEMORY))
    column_D = gl.arange(0, DIM, gl.SliceLayout(0, MEMORY))
    query_R, head_R = row_R // PACK, pack * PACK + row_R % PACK
    mask_RD = (query_R < count)[:, None] & (column_D < HEAD)[None, :]
    token_R = (first_query + query_R).to(gl.int64)
    from_RD = q + (token_R * q_stride + head_R * q_head_stride)[:, None] + column_D[None, :]
    rows = queries[0].index(WHICH)
    rows.store(gl.load(from_RD, mask=mask_RD, other=0.0))
    query = (rows, rows)
    if OTHERS:
        query = (rows, queries[1].index(WHICH))
        column_E = gl.arange(0, OTHERS, gl.SliceLayout(0, MEMORY))
        other_R = token_R * other_q_stride + head_R * other_q_head_stride
        from_RE = other_q + other_R[:, None] + column_E[None, :]
        query[1].store(gl.load(from_RE, mask=(query_R < count)[:, None], other=0.0))
    fence_async_shared()
    gl.thread_barrier()

    first, tiles, masked, whole = _tiles(count, length, block, window, PACK, TILE, WINDOWED)
    end = first + tiles
    position_R = length - count + (first_row + gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))) // PACK
    sum_RD = gl.zeros([ROWS, DIM], gl.float32, SUMS)
    largest_R = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    weight_R = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
    mbarrier.wait(key_ready.index(0), 0)
    score_RT = _ask_scores(query, 0, buffers, SCORES, TILE, OTHERS)
    score_RT = warpgroup_mma_wait(0, deps=(score_RT,))
    mbarrier.arrive(key_free.index(0), count=1)
    token_T = (end - 1) * TILE + gl.arange(0, TILE, gl.SliceLayout(0, SCORES))
    share_RT, largest_R, weight_R, _ = _softmax(
        score_RT, largest_R, weight_R, scale, position_R, token_T, window, True, WINDOWED
    )
    share_RT = gl.convert_layout(share_RT.to(q.dtype.element_ty), gl.DotOperandLayout(0, SUMS, 2))
    mbarrier.wait(key_ready.index(1), 0, pred=tiles > 1)
    for number in range(1, masked):
        sum_RD, share_RT, largest_R, weight_R = _add_tile(
            number, end, tiles, sum_RD, share_RT, largest_R, weight_R, scale, window, position_R, query, buffers,
            barriers, True, WINDOWED, SCORES, SUMS, TILE, STAGES, OTHERS,
        )  # fmt: skip
    for number in range(masked, whole):
        sum_RD, share_RT, largest_R, weight_R = _add_tile(
            number, end, tiles, sum_RD, share_RT, largest_R, weight_R, scale, window, position_R, query, buffers,
            barriers, False, WINDOWED, SCORES, SUMS, TILE, STAGES, OTHERS,
        )  # fmt: skip
    if WINDOWED:
        for number in range(whole, tiles):
            sum_RD, share_RT, largest_R, weight_R = _add_tile(
                number, end, tiles, sum_RD, share_RT, largest_R, weight_R, scale, window, position_R, query, buffers,
                barriers, True, WINDOWED, SCORES, SUMS, TILE, STAGES, OTHERS,
            )  # fmt: skip
    last = tiles - 1
    mbarrier.wait(value_ready.index(last % STAGES), last // STAGES & 1)
    sum_RD = warpgroup_mma(share_RT, value_tiles.index(last % STAGES), sum_RD, is_async=True)
    sum_RD = warpgroup_mma_wait(0, deps=(sum_RD,))

    mean_RD = sum_RD / gl.convert_layout(weight_R, gl.SliceLayout(1, SUMS))[:, None]
    # Through the memory of the queries, so that what is written lies in runs.
    rows.store(mean_RD.to(q.dtype.element_ty))
    gl.thread_barrier()
    to_RD = out + (token_R * out_stride + head_R * out_head_stride)[:, None] + column_D[None, :]
    gl.store(to_RD, rows.load(MEMORY), mask=mask_RD)


@gluon.jit
def _copy(
    runs, first_key, column, work, buffers, barriers,
    PACK: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, WINDOWED: gl.constexpr, OTHERS: gl.constexpr,
):  # fmt: skip
    """What the warp that copies does. Its first wait for each stage returns at once."""
    keys, values, others = runs
    _, count, length, _, block, _, window = work
    _, key_tiles, value_tiles, other_tiles = buffers
    key_ready, key_free, value_ready, value_free = barriers
    BYTES: gl.constexpr = keys.block_type.nbytes + (others.block_type.nbytes if OTHERS else 0)
    first, tiles, _, _ = _tiles(count, length, block, window, PACK, TILE, WINDOWED)
    for number in range(tiles):
        stage, phase = number % STAGES, number // STAGES & 1
        token = first_key + (first + tiles - 1 - number) * TILE
        mbarrier.wait(key_free.index(stage), phase ^ 1)
        mbarrier.expect(key_ready.index(stage), BYTES)
        tma.async_copy_global_to_shared(keys, [token, column], key_ready.index(stage), key_tiles.index(stage))
        if OTHERS:
            tma.async_copy_global_to_shared(others, [token, 0], key_ready.index(stage), other_tiles.index(stage))
        mbarrier.wait(value_free.index(stage), phase ^ 1)
        mbarrier.expect(value_ready.index(stage), values.block_type.nbytes)
        tma.async_copy_global_to_shared(values, [token, column], value_ready.index(stage), value_tiles.index(stage))


@gluon.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["query_start", "lengths", "firsts"])
def _attend_runs(
    q, other_q, keys, values, others, out, query_start, lengths, firsts, sequences, scale, window,
    q_stride, q_head_stride, other_q_stride, other_q_head_stride, out_stride, out_head_stride,
    GROUP: gl.constexpr, PACK: gl.constexpr, DIM: gl.constexpr, HEAD: gl.constexpr, OTHERS: gl.constexpr,
    TILE: gl.constexpr, STAGES: gl.constexpr, WINDOWED: gl.constexpr, POOLED: gl.constexpr,
):  # fmt: skip
    """keys, values: descriptors of [tokens of all contexts, key heads * HEAD]; others: of [tokens, OTHERS]. POOLED: of
    [slots, key heads * HEAD] instead, where a sequence's context begins at the slot that `firsts` names."""
    block, pack = gl.num_programs(0) - 1 - gl.program_id(0), gl.program_id(1)
    sequence, first_key, block_here, begun = 0, 0, block, 0
    for i in range(sequences):
        blocks = gl.cdiv((gl.load(query_start + i + 1) - gl.load(query_start + i)) * PACK, 2 * ROWS)
        begun += blocks
        is_past = (begun <= block).to(gl.int32)
        sequence += is_past
        first_key += is_past * gl.load(lengths + i)
        block_here -= is_past * blocks
    first_query = gl.load(query_start + sequence)
    count = gl.load(query_start + sequence + 1) - first_query
    length = gl.load(lengths + sequence)
    if POOLED:
        first_key = gl.load(firsts + sequence)

    element: gl.constexpr = q.dtype.element_ty
    query_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, DIM], element)
    queries = gl.allocate_shared_memory(element, [2, ROWS, DIM], query_layout)
    key_tiles = gl.allocate_shared_memory(element, [STAGES, TILE, DIM], keys.layout)
    value_tiles = gl.allocate_shared_memory(element, [STAGES, TILE, DIM], values.layout)
    buffers = ((queries, queries), key_tiles, value_tiles, key_tiles)
    if OTHERS:
        other_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, OTHERS], element)
        other_queries = gl.allocate_shared_memory(element, [2, ROWS, OTHERS], other_layout)
        other_tiles = gl.allocate_shared_memory(element, [STAGES, TILE, OTHERS], others.layout)
        buffers = ((queries, other_queries), key_tiles, value_tiles, other_tiles)
    key_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    key_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(key_ready.index(stage), count=1)
        mbarrier.init(value_ready.index(stage), count=1)
        # Both groups of warps have to be done with a tile.
        mbarrier.init(key_free.index(stage), count=2)
        mbarrier.init(value_free.index(stage), count=2)
    memory = (
        q, other_q, out, q_stride, q_head_stride, other_q_stride, other_q_head_stride, out_stride, out_head_stride
    )  # fmt: skip
    work = (first_query, count, length, pack, block_here, scale, window)
    barriers = (key_ready, key_free, value_ready, value_free)
    column, runs = pack * PACK // GROUP * HEAD, (keys, values, others)
    gl.warp_specialize(
        [
            (_multiply, (0, memory, work, buffers, barriers, PACK, DIM, HEAD, TILE, STAGES, WINDOWED, OTHERS)),
            (_multiply, (1, memory, work, buffers, barriers, PACK, DIM, HEAD, TILE, STAGES, WINDOWED, OTHERS)),
            (_copy, (runs, first_key, column, work, buffers, barriers, PACK, TILE, STAGES, WINDOWED, OTHERS)),
        ],
        [4, 1],
        [REGISTERS, FEW_REGISTERS],
    )


def why_not_runs(q: Tensor, keys: Tensor) -> str | None:
    """The reason attend_runs cannot take these, if there is one."""
    kv_heads, dim = keys.shape[1:]
    if dim > max(TILES) or kv_heads * dim % 8:
        return f"{kv_heads} key heads of {dim}: takes up to {max(TILES)}, and multiples of 8 in all"
    if keys.dtype not in (torch.float16, torch.bfloat16) or q.dtype != keys.dtype:
        return f"computes in 16 bits, not {q.dtype} and {keys.dtype}"
    return None


def attend_runs(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_table: Tensor,
    row: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    out: Tensor,
) -> None:
    """As attention_prefill.attend_chunks. Takes memory for the keys and values of all contexts."""
    heads, head = q.shape[1:]
    kv_heads, tokens, sequences = keys.shape[1], sum(context_lengths), len(query_lengths)
    numbers, dependent = kv_heads * head, depends(q.device)
    runs = torch.empty(2, tokens, numbers, dtype=keys.dtype, device=keys.device)
    _gather[(cdiv(tokens, GATHERED_TOKENS), cdiv(numbers, GATHERED_NUMBERS))](
        keys, values, runs[0], runs[1], slot_table, row, lengths, sequences, tokens, numbers,
        keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), slot_table.stride(0),
        SEQUENCES=max(next_power_of_2(sequences), 16), DIM=head, TOKENS=GATHERED_TOKENS,
        NUMBERS=GATHERED_NUMBERS, DEPENDENT=dependent, launch_pdl=dependent,
    )  # fmt: skip
    attend_runs_of(q, *runs, query_start, lengths, scale, window, query_lengths, out)


def attend_runs_of(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    query_lengths: Sequence[int],
    out: Tensor,
    *,
    others: tuple[Tensor, Tensor] | None = None,
    firsts: Tensor | None = None,
) -> None:
    """As attend_runs, with keys and values [tokens of all contexts, key heads * dim] next to one another already.

    others: more numbers of the queries [tokens, heads, n], and of the keys [tokens of all contexts, n], the same for
    all heads. n is a power of two of at least 16. firsts: keys and values are [slots, key heads * dim], and the context
    of each sequence lies there from its first slot on [sequences].
    """
    heads, head = q.shape[1:]
    kv_heads = keys.shape[1] // head
    # A head narrower than its tile is filled up with the next head's numbers, which meet zeros in the queries.
    dim, pack = min(size for size in TILES if size >= head), packed(heads, kv_heads)
    tile = TILES[dim]
    key_tiles, value_tiles = tiles_of(keys, tile, dim), tiles_of(values, tile, dim)
    other_q, other_tiles, width = q, key_tiles, 0
    if others is not None:
        other_q, width = others[0], others[1].shape[1]
        other_tiles = tiles_of(others[1], tile, width)
    blocks = sum(cdiv(count * pack, 2 * ROWS.value) for count in query_lengths)
    _attend_runs[(blocks, heads // pack)](
        q, other_q, key_tiles, value_tiles, other_tiles, out, query_start, lengths,
        lengths if firsts is None else firsts, len(query_lengths), scale * LOG2_E, window or 0, q.stride(0),
        q.stride(1), other_q.stride(0), other_q.stride(1), out.stride(0), out.stride(1), GROUP=heads // kv_heads,
        PACK=pack, DIM=dim, HEAD=head, OTHERS=width, TILE=tile, STAGES=STAGES[dim], WINDOWED=window is not None,
        POOLED=firsts is not None, num_warps=4, maxnreg=168,
    )  # fmt: skip
