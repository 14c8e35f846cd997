"""Attention over latents: decodes by one of two kernels, chunks by keys and values that are made of latents where that
pays, or else by slots, as in attention_prefill.py, with the latents themselves as keys."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import attention_latent_decode, attention_latent_decode_hopper
from lightllm.compute.kernels.triton.attention import lots
from lightllm.compute.kernels.triton.attention_prefill import attend_chunks
from lightllm.compute.kernels.triton.attention_prefill_hopper import attend_runs_of, why_not_runs
from lightllm.compute.kernels.triton.attention_quantized import run_of
from lightllm.compute.kernels.triton.launch import NARROWEST, is_hopper, why_not
from lightllm.compute.ops.attention import Sequences

FEW_HEADS = 16  # of a block: reading latents takes longer than the products
MOST_EXPANDED = 1 << 28  # numbers of keys expanded at once; a longer context is expanded alone


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
) -> None:
    """As attention_latent_decode.attend_decodes, by one of two kernels."""
    is_wide = attention_latent_decode.group_for(q.shape[1]) > FEW_HEADS
    if is_wide and is_hopper(q.device) and attention_latent_decode_hopper.why_not(q, latents, rank) is None:
        attention_latent_decode_hopper.attend_decodes(q, latents, rank, slot_table, row, lengths, scale, out)
        return
    attention_latent_decode.attend_decodes(
        q, latents, rank, slot_table, row, lengths, scale, out, latent_scale=latent_scale
    )


def _slots(slot_table: Tensor, row: Tensor, lengths: Sequence[int]) -> Tensor:
    """The slots of these rows' first `lengths` tokens, end to end."""
    table = slot_table[:, : max(lengths)].index_select(0, row)
    return torch.cat([slots[:length] for slots, length in zip(table, lengths, strict=True)])


def why_not_expanded(fixed: Tensor, turning: Tensor, key: Tensor, value: Tensor) -> str | None:
    """The reason keys and values are never expanded, if there is one."""
    if not is_hopper(fixed.device):
        return "the kernel for long chunks is Hopper's"
    if key.shape[1] != value.shape[1]:
        return f"keys of {key.shape[1]} and values of {value.shape[1]} numbers; they must be equal"
    dim, rank = turning.shape[2], key.shape[2]
    if dim < NARROWEST or dim & (dim - 1) or (rank + dim) % 8:
        return f"a turned part of {dim} numbers; it must be a power of two, and {rank} more a multiple of 8"
    return why_not_runs(fixed, key.new_empty(0, *key.shape[:2]))


def _attend_expanded(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    run: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    query_lengths: Sequence[int],
    out: Tensor,
) -> None:
    """Chunks by keys and values made of `run`, the latents of all their contexts, end to end."""
    rank = key.shape[2]
    keys, values = (run[:, :rank] @ matrices.flatten(0, 1).T for matrices in (key, value))
    others = (turning, run[:, rank:])
    attend_runs_of(fixed, keys, values, query_start, lengths, scale, None, query_lengths, out, others=others)


def _attend_absorbed(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    latent_scale: Tensor | None,
    sequences: Sequences,
    scale: float,
    out: Tensor,
) -> None:
    """Decodes, then chunks, by queries that meet latents themselves."""
    slot_table, row, lengths = sequences.slot_table, sequences.row, sequences.lengths
    decodes, query_lengths = sequences.decodes, sequences.query_lengths
    tokens, heads, rank = *fixed.shape[:2], key.shape[2]
    q = torch.empty(tokens, heads, rank + turning.shape[2], dtype=fixed.dtype, device=fixed.device)
    torch.bmm(fixed.transpose(0, 1), key, out=q[..., :rank].transpose(0, 1))
    q[..., rank:] = turning
    sums = torch.empty(tokens, heads, rank, dtype=fixed.dtype, device=fixed.device)
    if decodes:
        where = (slot_table, row[:decodes], lengths[:decodes])
        attend_decodes(q[:decodes], latents, rank, *where, scale, sums[:decodes], latent_scale=latent_scale)
    if query_lengths:
        keys, packed = latents.unsqueeze(1), q.shape[2] // latents.shape[1]
        scales = None if latent_scale is None else (latent_scale.unsqueeze(1),) * 2
        where = (slot_table, row[decodes:], sequences.query_start[decodes:], lengths[decodes:])
        attend_chunks(q, keys, keys[..., : rank // packed], *where, scale, None, query_lengths, sums, scales=scales)
    torch.bmm(sums.transpose(0, 1), value.transpose(1, 2), out=out.transpose(0, 1))


@ops.attend_latent.implementation("triton", why_not)
def attend_latent(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    sequences: Sequences,
    scale: float,
) -> Tensor:
    def copied(which: slice, contexts: Sequence[int]) -> Tensor:
        memo = sequences.memo
        if ("slots", which.start) not in memo:
            memo["slots", which.start] = _slots(sequences.slot_table, sequences.row[which], contexts)
        return latents.index_select(0, memo["slots", which.start])

    return _attend(fixed, turning, key, value, latents, None, sequences, scale, copied)


@ops.attend_latent_quantized.implementation("triton", why_not)
def attend_latent_quantized(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    latent_scale: Tensor,
    sequences: Sequences,
    scale: float,
) -> Tensor:
    def copied(which: slice, contexts: Sequence[int]) -> Tensor:
        packed = (key.shape[2] + turning.shape[2]) // latents.shape[1]
        pool = latents.unsqueeze(1), latent_scale.unsqueeze(1), packed
        where = sequences.slot_table, sequences.row[which], sequences.lengths[which]
        return run_of(*pool, *where, contexts, fixed.dtype)

    return _attend(fixed, turning, key, value, latents, latent_scale, sequences, scale, copied)


def _attend(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    latent_scale: Tensor | None,
    sequences: Sequences,
    scale: float,
    copied: Callable[[slice, Sequence[int]], Tensor],
) -> Tensor:
    """Both ops. copied: the latents of some sequences' contexts, end to end, as they are computed with."""
    assert fixed.stride(2) == turning.stride(2) == latents.stride(1) == 1, "a vector lies in a run"
    out = torch.empty(*fixed.shape[:2], value.shape[1], dtype=fixed.dtype, device=fixed.device)
    matrices, pool, decodes = (key, value), (latents, latent_scale), sequences.decodes
    if sequences.context_lengths is None or why_not_expanded(fixed, turning, key, value) is not None:
        _attend_absorbed(fixed, turning, *matrices, *pool, sequences, scale, out)
        return out
    if decodes:
        queries = fixed[:decodes], turning[:decodes]
        _attend_absorbed(*queries, *matrices, *pool, replace(sequences, query_lengths=()), scale, out[:decodes])
    for lot, contexts in lots(sequences, 1, MOST_EXPANDED // key[:, :, 0].numel()):
        assert contexts is not None, "every chunk is long enough"
        which = slice(decodes + lot.start, decodes + lot.stop)
        where = sequences.query_start[which.start : which.stop + 1], sequences.lengths[which]
        run = copied(which, contexts)
        _attend_expanded(fixed, turning, key, value, run, *where, scale, sequences.query_lengths[lot], out)
    return out
