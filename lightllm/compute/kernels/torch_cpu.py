"""Ops for a CPU, in few PyTorch calls whose number does not depend on how many sequences decode."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute import ops

GATHERED_NUMBERS = 1 << 24  # bound on what is copied out of a pool at once: 64 MiB of float32
SHORT = 64  # lengths up to this are padded to the longest among them


@ops.norm_rotate_store.implementation("torch_cpu")
def norm_rotate_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    if q_weight is not None and k_weight is not None:
        q, k = F.rms_norm(q, q_weight.shape, q_weight, eps), F.rms_norm(k, k_weight.shape, k_weight, eps)
    both = ops.rotate_halves(torch.cat([q, k], dim=1), positions, table)
    q, k = both.split([q.shape[1], k.shape[1]], dim=1)
    keys.index_copy_(0, slots, k.to(keys.dtype))
    values.index_copy_(0, slots, v.to(values.dtype))
    return q


@ops.rotate_halves.implementation("torch_cpu")
def rotate_halves(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    cos, sin = table.index_select(0, positions).to(x.dtype).unsqueeze(1).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


@ops.attend.implementation("torch_cpu")
def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_table: Tensor,
    row: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    decodes: int,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    max_length: int,
) -> Tensor:
    """Decodes: sequences of about one length at a time. Others: one sequence at a time."""
    kv_heads, dim = keys.shape[1:]
    queries, out = q.to(keys.dtype), torch.empty(q.shape, dtype=keys.dtype)
    for chosen, slots, mask in _decodes_by_length(slot_table, row, lengths, window, decodes, 2 * kv_heads * dim):
        # The heads that share a key count as that many queries of one head.
        grouped = queries.index_select(0, chosen).unflatten(1, (kv_heads, -1))
        key, value = (_gather(pool, slots).transpose(1, 2) for pool in (keys, values))
        one = F.scaled_dot_product_attention(grouped, key, value, mask[:, None, None], scale=scale)
        out.index_copy_(0, chosen, one.flatten(1, 2))
    for tokens, slots, mask in _chunks(slot_table, row, window, decodes, query_lengths, context_lengths):
        key, value = (_gather(pool, slots).transpose(0, 1).unsqueeze(0) for pool in (keys, values))
        query = queries[tokens].transpose(0, 1).unsqueeze(0)
        one = F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=True)
        out[tokens] = one.squeeze(0).transpose(0, 1)
    return out.to(q.dtype)


@ops.attend_latent.implementation("torch_cpu")
def attend_latent(
    q: Tensor,
    latents: Tensor,
    rank: int,
    slot_table: Tensor,
    row: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    decodes: int,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    max_length: int,
) -> Tensor:
    """Decodes: sequences of about one length at a time. Others: one sequence at a time."""
    queries, out = q.to(latents.dtype) * scale, torch.empty(*q.shape[:-1], rank, dtype=latents.dtype)
    for chosen, slots, mask in _decodes_by_length(slot_table, row, lengths, None, decodes, latents.shape[1]):
        latent = _gather(latents, slots)
        scores = torch.bmm(queries.index_select(0, chosen), latent.mT).masked_fill_(~mask[:, None], float("-inf"))
        out.index_copy_(0, chosen, torch.bmm(scores.softmax(-1), latent[..., :rank]))
    for tokens, slots, mask in _chunks(slot_table, row, None, decodes, query_lengths, context_lengths):
        latent = _gather(latents, slots)
        scores = (queries[tokens] @ latent.T).masked_fill_(~mask[:, None], float("-inf"))
        out[tokens] = scores.softmax(-1) @ latent[:, :rank]
    return out.to(q.dtype)


@ops.gated_experts.implementation("torch_cpu")
def gated_experts(x: Tensor, gate_up: Tensor, down: Tensor, choice: Tensor, share: Tensor, first: int) -> Tensor:
    """Choices are sorted by expert: two products for each expert that was chosen."""
    expert, order = (choice - first).flatten().sort()
    token, share = order // choice.shape[1], share.flatten()[order]
    edges = torch.searchsorted(expert, torch.arange(len(gate_up) + 1)).tolist()
    out = torch.zeros_like(x, dtype=torch.float32)
    for local, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        if start < stop:
            mine = token[start:stop]
            gate, up = F.linear(x[mine], gate_up[local]).chunk(2, -1)
            out.index_add_(0, mine, F.linear(F.silu(gate) * up, down[local]) * share[start:stop, None])
    return out.to(x.dtype)


def _gather(pool: Tensor, slots: Tensor) -> Tensor:
    """pool[slots]; index_select on rows is eight times faster than indexing here."""
    return pool.flatten(1).index_select(0, slots.flatten()).view(*slots.shape, *pool.shape[1:])


def _decodes_by_length(
    slot_table: Tensor, row: Tensor, lengths: Tensor, window: int | None, decodes: int, numbers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The decodes in lots of about one length, no lot copying more than GATHERED_NUMBERS at `numbers` a slot.

    Yields which sequences [n], their slots [n, span], and which of these count [n, span]. A lot's lengths are within
    a factor of two (or all short), so the number of lots grows with the spread of lengths, not with `decodes`.
    """
    if not decodes:
        return
    ordered, order = lengths[:decodes].sort()
    stop = decodes
    while stop > 0:
        longest = int(ordered[stop - 1])
        span = longest if window is None else min(longest, window)
        start = int(torch.searchsorted(ordered, longest // 2 if longest > SHORT else 0, right=True))
        start = max(start, stop - max(GATHERED_NUMBERS // (span * numbers), 1))
        chosen, length = order[start:stop], ordered[start:stop, None]
        # Positions are counted back from each sequence's last token, so that a window is the same for all.
        position = length - span + torch.arange(span)
        entries = row.index_select(0, chosen)[:, None] * slot_table.shape[1] + position.clamp(min=0)
        slots = slot_table.view(-1).index_select(0, entries.flatten()).view_as(entries)
        yield chosen, slots, position >= 0
        stop = start


def _chunks(
    slot_table: Tensor,
    row: Tensor,
    window: int | None,
    decodes: int,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each sequence that is not a decode: its tokens, the slots these see, and which of the slots each token sees."""
    start = decodes
    for sequence, (count, length) in enumerate(zip(query_lengths, context_lengths, strict=True), start=decodes):
        first = 0 if window is None else max(length - count - window + 1, 0)
        distance = torch.arange(length - count, length)[:, None] - torch.arange(first, length)
        mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        yield slice(start, start + count), slot_table[row[sequence], first:length], mask
        start += count
