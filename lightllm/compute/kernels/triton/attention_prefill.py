# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention of sequences that run several tokens, over the slot table: the cost is the matrix products.

A program computes a block of BLOCK rows. A row is one query head of one token; PACK heads that share a key head are
packed into a block, so that a block spans BLOCK / PACK tokens and short chunks still fill it. Keys are read by their
slots, TILE at a time: tiles that every row of the block sees whole need no mask. Blocks run last one first, because
the last ones see most and would otherwise leave the device half empty at the end.

A head's numbers are computed in two parts, SPLIT of them and the rest, padded to DIM and REST, powers of two, so that
80, 96 or 192 waste nothing. LATENT: a value is the first part of its key, so each tile is loaded once.
Where a pool has scales, a key's multiplies its score and a value's its share: see kv_formats.py.
Suffixes: S sequences, R rows of a block, T tokens of a tile, D and E numbers of a head's two parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.kernels.triton.kv_formats import LEAST_SCALE, numbers, scaled_shares
from lightllm.compute.kernels.triton.launch import NARROWEST, begin, cdiv, depends, next_power_of_2, padded

MOST_PACKED = 16
LONG_ROWS = 512  # with more, a chunk's blocks are large


@dataclass(frozen=True)
class Shape:
    """Launch parameters."""

    block: int
    tile: int
    warps: int
    stages: int


@triton.jit
def _load_tile(
    pool, slot_T, stride, is_token_T,
    MASKED: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr, PACKED: tl.constexpr,
    KIND: tl.constexpr,
):  # fmt: skip
    """WIDTH numbers of each token's head from FIRST on; zeros from END on, and for other tokens if MASKED."""
    STORED: tl.constexpr = 2 if PACKED == 2 else 1
    column_D = FIRST // STORED + tl.arange(0, WIDTH // STORED)
    at_TD = pool + slot_T[:, None] * stride + column_D[None, :]
    if FIRST + WIDTH > END:
        is_head_TD = (column_D < END // STORED)[None, :]
        tile_TD = tl.load(at_TD, mask=is_token_T[:, None] & is_head_TD if MASKED else is_head_TD, other=0.0)
    elif MASKED:
        tile_TD = tl.load(at_TD, mask=is_token_T[:, None], other=0.0)
    else:
        tile_TD = tl.load(at_TD)
    return numbers(tile_TD, PACKED, KIND)


@triton.jit
def _attend_tile(
    sum_RD, sum_RE, largest_R, weight_R, top, query_RD, query_RE, keys, values, key_scale, value_scale, slots, start,
    end, position_R, scale, window, keys_stride, values_stride, scale_stride,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, LATENT: tl.constexpr, DIM: tl.constexpr, REST: tl.constexpr,
    SPLIT: tl.constexpr, HEAD: tl.constexpr, PACKED: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the tokens start ... start + TILE - 1 to the running softmax. MASKED: not every row sees all of them."""
    KIND: tl.constexpr = query_RD.dtype
    token_T = start + tl.arange(0, TILE)
    is_token_T = token_T < end
    slot_T = tl.load(slots + token_T, mask=is_token_T, other=0) if MASKED else tl.load(slots + token_T)
    slot_T = slot_T.to(tl.int64)
    key_TD = _load_tile(keys, slot_T, keys_stride, is_token_T, MASKED, 0, DIM, SPLIT, PACKED, KIND)
    score_RT = tl.dot(query_RD, key_TD.T, input_precision=PRECISION)
    if REST:
        key_TE = _load_tile(keys, slot_T, keys_stride, is_token_T, MASKED, SPLIT, REST, HEAD, PACKED, KIND)
        score_RT = tl.dot(query_RE, key_TE.T, score_RT, input_precision=PRECISION)
    if PACKED:
        score_RT *= tl.load(key_scale + slot_T * scale_stride, mask=is_token_T, other=0.0)[None, :]
    if MASKED:
        distance_RT = position_R[:, None] - token_T[None, :]
        is_seen_RT = (distance_RT >= 0) & (distance_RT < window) if WINDOWED else distance_RT >= 0
        score_RT = tl.where(is_seen_RT, score_RT, float("-inf"))
    new_R = tl.maximum(largest_R, tl.max(score_RT, axis=1) * scale)
    # A row may see nothing yet: then its largest score is -inf, and any finite base keeps NaN away.
    base_R = tl.where(new_R == float("-inf"), 0.0, new_R) if MASKED else new_R
    share_RT = tl.exp2(score_RT * scale - base_R[:, None])
    before_R = tl.exp2(largest_R - base_R)
    weight_R = weight_R * before_R + tl.sum(share_RT, axis=1)
    if PACKED:
        value_scale_T = tl.load(value_scale + slot_T * scale_stride, mask=is_token_T, other=0.0)
        share_RT, top, shrinks = scaled_shares(share_RT, value_scale_T, top)
        before_R *= shrinks
    value_TD = key_TD
    if not LATENT:
        value_TD = _load_tile(values, slot_T, values_stride, is_token_T, MASKED, 0, DIM, SPLIT, PACKED, KIND)
    share_RT = share_RT.to(value_TD.dtype)
    sum_RD = tl.dot(share_RT, value_TD, sum_RD * before_R[:, None], input_precision=PRECISION)
    if REST and not LATENT:
        value_TE = _load_tile(values, slot_T, values_stride, is_token_T, MASKED, SPLIT, REST, HEAD, PACKED, KIND)
        sum_RE = tl.dot(share_RT, value_TE, sum_RE * before_R[:, None], input_precision=PRECISION)
    return sum_RD, sum_RE, new_R, weight_R, top


@triton.jit(do_not_specialize=["sequences"], do_not_specialize_on_alignment=["row", "query_start", "lengths"])
def _attend_chunks(
    q, keys, values, key_scale, value_scale, out, slot_table, row, query_start, lengths, sequences, scale, window,
    q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride, scale_stride,
    table_stride, out_stride, out_head_stride,
    SEQUENCES: tl.constexpr, GROUP: tl.constexpr, PACK: tl.constexpr, DIM: tl.constexpr, REST: tl.constexpr,
    SPLIT: tl.constexpr, HEAD: tl.constexpr, PACKED: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    WINDOWED: tl.constexpr, LATENT: tl.constexpr, PRECISION: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    block, pack = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    begin(DEPENDENT)
    index_S = tl.arange(0, SEQUENCES)
    start_S = tl.load(query_start + index_S, mask=index_S < sequences, other=0)
    count_S = tl.load(query_start + 1 + index_S, mask=index_S < sequences, other=0) - start_S
    blocks_S = tl.cdiv(count_S * PACK, BLOCK)
    is_before_S = tl.cumsum(blocks_S, axis=0) <= block
    if block >= tl.sum(blocks_S, axis=0):
        return
    sequence = tl.sum(is_before_S.to(tl.int32), axis=0)
    block -= tl.sum(tl.where(is_before_S, blocks_S, 0), axis=0)

    first_query = tl.load(query_start + sequence)
    count = tl.load(query_start + sequence + 1) - first_query
    length = tl.load(lengths + sequence)
    slots = slot_table + tl.load(row + sequence) * table_stride
    row_R = block * BLOCK + tl.arange(0, BLOCK)
    query_R, head_R = row_R // PACK, pack * PACK + row_R % PACK
    position_R = length - count + query_R
    is_row_R = query_R < count
    kv_head = pack * PACK // GROUP
    keys += kv_head * keys_head_stride
    values += kv_head * values_head_stride
    KIND: tl.constexpr = q.dtype.element_ty if PACKED else keys.dtype.element_ty
    if PACKED:
        key_scale += kv_head
        value_scale += kv_head
    column_D = tl.arange(0, DIM)
    mask_RD = is_row_R[:, None] & (column_D < SPLIT)[None, :]
    token_R = (first_query + query_R).to(tl.int64)
    q_R = q + token_R * q_stride + head_R * q_head_stride
    out_R = out + token_R * out_stride + head_R * out_head_stride
    query_RD = tl.load(q_R[:, None] + column_D[None, :], mask=mask_RD, other=0.0).to(KIND)
    sum_RD = tl.zeros([BLOCK, DIM], tl.float32)
    query_RE, sum_RE = query_RD, sum_RD  # unused unless there is a rest
    if REST:
        column_E = SPLIT + tl.arange(0, REST)
        mask_RE = is_row_R[:, None] & (column_E < HEAD)[None, :]
        query_RE = tl.load(q_R[:, None] + column_E[None, :], mask=mask_RE, other=0.0).to(KIND)
        sum_RE = tl.zeros([BLOCK, REST], tl.float32)
    largest_R = tl.full([BLOCK], float("-inf"), tl.float32)
    weight_R = tl.zeros([BLOCK], tl.float32)
    top = tl.full([], LEAST_SCALE, tl.float32)

    # Of tokens least ... end - 1 that some row sees, every row sees whole ... masked - 1.
    first_position = length - count + block * BLOCK // PACK
    last_position = tl.minimum(length - count + ((block + 1) * BLOCK - 1) // PACK, length - 1)
    end = last_position + 1
    least, whole = 0, 0
    if WINDOWED:
        least = tl.maximum(first_position - window + 1, 0) // TILE * TILE
        whole = tl.minimum(tl.cdiv(tl.maximum(last_position - window + 1, 0), TILE) * TILE, end)
    masked = tl.maximum((first_position + 1) // TILE * TILE, whole)
    if WINDOWED:
        for start in range(least, whole, TILE):
            sum_RD, sum_RE, largest_R, weight_R, top = _attend_tile(
                sum_RD, sum_RE, largest_R, weight_R, top, query_RD, query_RE, keys, values, key_scale, value_scale,
                slots, start, end, position_R, scale, window, keys_stride, values_stride, scale_stride, True, WINDOWED,
                LATENT, DIM, REST, SPLIT, HEAD, PACKED, TILE, PRECISION,
            )  # fmt: skip
    for start in range(whole, masked, TILE):
        sum_RD, sum_RE, largest_R, weight_R, top = _attend_tile(
            sum_RD, sum_RE, largest_R, weight_R, top, query_RD, query_RE, keys, values, key_scale, value_scale, slots,
            start, end, position_R, scale, window, keys_stride, values_stride, scale_stride, False, WINDOWED, LATENT,
            DIM, REST, SPLIT, HEAD, PACKED, TILE, PRECISION,
        )  # fmt: skip
    for start in range(masked, end, TILE):
        sum_RD, sum_RE, largest_R, weight_R, top = _attend_tile(
            sum_RD, sum_RE, largest_R, weight_R, top, query_RD, query_RE, keys, values, key_scale, value_scale, slots,
            start, end, position_R, scale, window, keys_stride, values_stride, scale_stride, True, WINDOWED, LATENT,
            DIM, REST, SPLIT, HEAD, PACKED, TILE, PRECISION,
        )  # fmt: skip

    # Rows that only fill up the block may have seen nothing.
    weight_R = tl.where(is_row_R, weight_R, 1.0)
    weight_R = weight_R / top if PACKED else weight_R
    mean_RD = (sum_RD / weight_R[:, None]).to(out.dtype.element_ty)
    tl.store(out_R[:, None] + column_D[None, :], mean_RD, mask=mask_RD)
    if REST and not LATENT:
        mean_RE = (sum_RE / weight_R[:, None]).to(out.dtype.element_ty)
        tl.store(out_R[:, None] + column_E[None, :], mean_RE, mask=mask_RE)


def shape_for(dim: int, dtype: torch.dtype, rows: int) -> Shape:
    """rows: of the longest chunk, for one key head. Source: docs/performance-log.md."""
    if dtype == torch.float32:
        return Shape(block=32, tile=32, warps=4, stages=2)
    if dim <= 128:
        # Two programs of four warps hide more of each other's waiting than one of eight: 394 against 312 TFLOP/s.
        return Shape(block=128 if rows > LONG_ROWS else 64, tile=64, warps=4, stages=3)
    if dim <= 256:
        return Shape(block=128, tile=64, warps=8, stages=2)
    return Shape(block=64, tile=32, warps=8, stages=3)


def _shape(dim: int, dtype: torch.dtype, rows: int, device: torch.device) -> Shape:
    """What was measured on this device, or else `shape_for`."""
    default = shape_for(dim, dtype, rows)
    if dtype == torch.float32:
        return default
    return tuned.shape(device, "attend chunks", Shape, (dim, int(rows > LONG_ROWS)), default) or default


def packed(heads: int, kv_heads: int) -> int:
    """How many heads that share a key head go into a block: a power of two, so that a block is a number of tokens."""
    group = heads // kv_heads
    return min(group & -group, MOST_PACKED)


def parts(dim: int) -> tuple[int, int]:
    """The powers of two by which a head of `dim` numbers is computed."""
    most = max(1 << (dim.bit_length() - 1), NARROWEST)
    return most, padded(dim - most) if dim > most else 0


def attend_chunks(
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
    out: Tensor,
    *,
    scales: tuple[Tensor, Tensor] | None = None,
    shape: Shape | None = None,
) -> None:
    """As ops.attend, for sequences of any number of tokens; writes to out, which is like q. Values that are narrower
    than keys must be the first numbers of these: then it is ops.attend_latent. scales: of keys and values [pool slots,
    kv_heads], where pools are as ops.attend_quantized has them.

    query_start [sequences + 1] counts from q's beginning; q may hold more tokens than these. query_lengths: as they
    are or, if the host does not know them, such as have at least as many blocks; then some may have no tokens.
    """
    heads, dim = q.shape[1:]
    kv_heads = keys.shape[1]
    stored = 0 if scales is None else dim // keys.shape[2]
    pack, split = packed(heads, kv_heads), values.shape[2] * max(stored, 1)
    is_latent = split < dim
    if is_latent:
        most, rest = (padded(size) for size in (split, dim - split))
    else:
        most, rest = parts(dim)
        split = min(most, dim)
    kind = keys.dtype if scales is None else q.dtype
    shape = shape or _shape(dim, kind, max(query_lengths) * pack, q.device)
    blocks = sum(cdiv(count * pack, shape.block) for count in query_lengths)
    dependent = depends(q.device)
    _attend_chunks[(blocks, heads // pack)](
        q, keys, values, *(scales or (None, None)), out, slot_table, row, query_start, lengths, len(query_lengths),
        scale * LOG2_E, window or 0, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0),
        values.stride(1), 0 if scales is None else scales[0].stride(0), slot_table.stride(0), out.stride(0),
        out.stride(1),
        SEQUENCES=max(next_power_of_2(len(query_lengths)), 32), GROUP=heads // kv_heads, PACK=pack, DIM=most,
        REST=rest, SPLIT=split, HEAD=dim, PACKED=stored, BLOCK=shape.block, TILE=shape.tile,
        WINDOWED=window is not None, LATENT=is_latent, PRECISION="ieee" if kind == torch.float32 else "tf32",
        DEPENDENT=dependent, launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
