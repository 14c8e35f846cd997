"""Attention on a CPU: what a pool holds of some sequences is copied together, and given to PyTorch's attention.

Decodes of about one length make a lot; other sequences are cut into blocks of queries. Lots and blocks, and the memory
to copy into, are worked out once a step. So a layer makes few calls, and no more Python calls for many sequences than
for few. Copies small enough to stay in a core's cache until they are read save a third of the time.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.needs import why_not
from lightllm.compute.ops.attention import Sequences, absorbed

LOT_NUMBERS = 1 << 19  # numbers that a lot copies from one pool, unless that makes more lots than MOST_LOTS
MOST_LOTS = 8
MOST_NUMBERS = 1 << 24  # 64 MiB of float32, whatever the number of lots
SHORT = 64  # sequences no longer than this are about as long as one another
BLOCK = 256  # queries of one sequence that are computed together, over the keys up to the last of them


@dataclass(frozen=True, slots=True)
class Lot:
    """Some of the decodes in order of length, and the slots of the last `span` tokens of each.

    room: for each pool memory for these slots, flat for copying and [sequences, span, ...] for computing.
    """

    sequences: slice
    slots: Tensor  # [sequences * span] int32
    mask: Tensor  # [sequences, 1, 1, span] bool: which of the tokens exist
    room: Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Block:
    """Some queries of a sequence: which of the step's tokens, which of the sequence's slots these see."""

    tokens: slice
    seen: slice
    mask: Tensor  # [tokens, seen] bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sequence that is not a decode: the slots that its queries see."""

    slots: Tensor  # [slots] int32
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all layers with one window do in a step."""

    order: Tensor  # [decodes] int64, by length
    lots: Sequence[Lot]
    chunks: Sequence[Chunk]


@ops.attend.implementation("cpu", why_not)
def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    kv_heads, dim = keys.shape[1:]
    plan = _once(("attend", window, keys.shape[1:], keys.dtype), sequences, window, [keys, values])
    queries, out = q.to(keys.dtype), torch.empty(q.shape, dtype=keys.dtype)
    if sequences.decodes:
        # Heads that share a key are that many queries of one head.
        grouped = queries.index_select(0, plan.order).view(sequences.decodes, kv_heads, -1, dim)
        attended = torch.empty_like(grouped)
        for lot in plan.lots:
            (flat_key, key), (flat_value, value) = lot.room
            torch.index_select(keys, 0, lot.slots, out=flat_key)
            torch.index_select(values, 0, lot.slots, out=flat_value)
            query, key, value = grouped[lot.sequences], key.transpose(1, 2), value.transpose(1, 2)
            attended[lot.sequences] = F.scaled_dot_product_attention(query, key, value, lot.mask, scale=scale)
        out.index_copy_(0, plan.order, attended.view(sequences.decodes, *q.shape[1:]))
    for chunk in plan.chunks:
        key = keys.index_select(0, chunk.slots).transpose(0, 1)[None]
        value = values.index_select(0, chunk.slots).transpose(0, 1)[None]
        for block in chunk.blocks:
            query = queries[block.tokens].transpose(0, 1)[None]
            some = F.scaled_dot_product_attention(
                query, key[:, :, block.seen], value[:, :, block.seen], block.mask, scale=scale, enable_gqa=True
            )
            out[block.tokens] = some[0].transpose(0, 1)
    return out.to(q.dtype)


@ops.attend_latent.implementation("cpu", why_not)
def attend_latent(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    sequences: Sequences,
    scale: float,
) -> Tensor:
    plan = _once(("attend_latent", latents.shape[1:], latents.dtype), sequences, None, [latents])
    q, rank = absorbed(fixed, turning, key), key.shape[2]
    queries, out = q.to(latents.dtype) * scale, torch.empty(*q.shape[:-1], rank, dtype=latents.dtype)
    if sequences.decodes:
        ordered = queries.index_select(0, plan.order)
        attended = torch.empty(*ordered.shape[:-1], rank, dtype=latents.dtype)
        for lot in plan.lots:
            ((flat, latent),) = lot.room
            torch.index_select(latents, 0, lot.slots, out=flat)
            scores = torch.bmm(ordered[lot.sequences], latent.mT).masked_fill_(~lot.mask[:, 0], float("-inf"))
            attended[lot.sequences] = torch.bmm(scores.softmax(-1), latent[..., :rank])
        out.index_copy_(0, plan.order, attended)
    for chunk in plan.chunks:
        latent = latents.index_select(0, chunk.slots)
        for block in chunk.blocks:
            scores = queries[block.tokens] @ latent[block.seen].T
            weights = scores.masked_fill_(~block.mask[:, None], float("-inf")).softmax(-1)
            out[block.tokens] = weights @ latent[block.seen, :rank]
    return torch.einsum("thr,hvr->thv", out.to(q.dtype), value)


def _once(key: Hashable, sequences: Sequences, window: int | None, pools: Sequence[Tensor]) -> Plan:
    """The step's plan for this kind of layer, made by the first layer that asks."""
    memo = sequences.memo
    if key not in memo:
        ordered, order = sequences.lengths[: sequences.decodes].sort()
        lots = list(_lots(sequences.slot_table, sequences.row[order], ordered, window, pools))
        memo[key] = Plan(order, lots, list(_chunks(sequences, window)))
    return memo[key]


def _lots(
    slot_table: Tensor, row: Tensor, lengths: Tensor, window: int | None, pools: Sequence[Tensor]
) -> Iterator[Lot]:
    """Decodes in lots; `lengths` ascend. All lots use the same room."""
    spans = lengths if window is None else lengths.clamp(max=window)
    runs = list(_runs(spans, numbers=pools[0][0].numel()))
    most = max(((run.stop - run.start) * span for run, span in runs), default=0)
    rooms = [pool.new_empty(most, *pool.shape[1:]) for pool in pools]
    for run, span in runs:
        # Positions are counted back from the last token, so that a window is the same for all.
        position = lengths[run, None] - span + torch.arange(span)
        entries = row[run, None] * slot_table.shape[1] + position.clamp(min=0)
        slots = slot_table.flatten().index_select(0, entries.flatten())
        flat = [room[: len(slots)] for room in rooms]
        views = [(room, room.view(*position.shape, *room.shape[1:])) for room in flat]
        yield Lot(run, slots, (position >= 0)[:, None, None], views)


def _runs(spans: Tensor, numbers: int) -> Iterator[tuple[slice, int]]:
    """Runs of sequences whose spans, which ascend, are within a factor of two or all short; and the longest span."""
    total = int(spans.sum()) * numbers
    most = min(max(LOT_NUMBERS, total // MOST_LOTS), MOST_NUMBERS)
    stop = len(spans)
    while stop > 0:
        longest = int(spans[stop - 1])
        shorter = int(torch.searchsorted(spans, longest // 2, right=True)) if longest > SHORT else 0
        start = max(shorter, stop - max(most // (longest * numbers), 1))
        yield slice(start, stop), longest
        stop = start


def _chunks(sequences: Sequences, window: int | None) -> Iterator[Chunk]:
    """Each sequence that is not a decode, in blocks of queries."""
    decodes, query_lengths, context_lengths = sequences.decodes, sequences.query_lengths, sequences.context_lengths
    assert context_lengths is not None, "nothing is recorded on a CPU"
    longest = max(context_lengths, default=0)
    # Seen or not depends on the distance from key to query alone: every block's mask is a part of this one.
    distance = torch.arange(BLOCK)[:, None] - torch.arange(-longest, BLOCK)
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    start = decodes
    for number, (count, length) in enumerate(zip(query_lengths, context_lengths, strict=True), start=decodes):
        cached = length - count
        first = 0 if window is None else max(cached - window + 1, 0)
        blocks = []
        for at in range(0, count, BLOCK):
            size, position = min(BLOCK, count - at), cached + at
            low = first if window is None else max(position - window + 1, first)
            mask = visible[:size, longest + low - position : longest + size]
            blocks.append(
                Block(slice(start + at, start + at + size), slice(low - first, position + size - first), mask)
            )
        yield Chunk(sequences.slot_table[sequences.row[number], first:length], blocks)
        start += count
