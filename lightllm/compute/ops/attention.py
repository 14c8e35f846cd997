"""Attention over the slot table: where each token's state lives is data, so nothing is ever moved."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightllm.compute.ops.op import TOLERANCE, Facts, op

IN_RUNS = "in runs"
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which tokens of a step attend to what. Its sequences lie end to end; the first `decodes` run one token each.

    The tensors are on the device, all else is known to the host, so that nothing waits for the device. Of a recorded
    step the host knows bounds only: `context_lengths` is None, and `query_lengths` are such that no chunks that the
    step may have make more blocks, of whatever size. The last ones of the first `decodes` sequences and of the others
    may have no tokens and length 0, and the last tokens may be of no sequence.

    memo: what an implementation works out once for all layers of the step. The host puts IN_RUNS into it where it knows
    that each context after those of the decodes lies in a run of slots.
    """

    slot_table: Tensor  # [rows, positions] int32: the slot of each position of each row
    row: Tensor  # [sequences] int64: each sequence's row
    query_start: Tensor  # [sequences + 1] int32: where each sequence's tokens begin
    lengths: Tensor  # [sequences] int32: context, this step's tokens included
    decodes: int
    query_lengths: Sequence[int]  # tokens of each sequence after the decodes
    context_lengths: Sequence[int] | None  # lengths of these sequences
    memo: dict[Hashable, Any] = field(default_factory=dict)


def _scattered(facts: Facts, queries: Sequence[int], lengths: Sequence[int]) -> Sequences:
    """Sequences that run `queries` tokens on contexts of `lengths`, decodes first, in rows and slots in no order."""
    decodes = next((i for i, count in enumerate(queries) if count > 1), len(queries))
    rows, width = len(lengths) + 1, max(lengths) + 1
    return Sequences(
        slot_table=torch.randperm(rows * width, device=facts.device).view(rows, width).to(torch.int32),
        row=torch.randperm(rows, device=facts.device)[: len(lengths)],
        query_start=torch.tensor([0, *queries], device=facts.device).cumsum(0).to(torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=facts.device),
        decodes=decodes,
        query_lengths=list(queries[decodes:]),
        context_lengths=list(lengths[decodes:]),
    )


def _steps(facts: Facts):
    """Decodes alone, prompts alone, chunks beside decodes; and how many tokens they run."""
    for queries, lengths in [
        ([1, 1, 1], [1, 7, 4]),
        ([1] * 9, [1, 2, 300, 299, 64, 65, 128, 5, 290]),
        ([300, 2], [300, 700]),
        ([5], [5]),
        ([4, 1, 3], [9, 6, 3]),
        ([1, 1, 3, 20], [11, 1, 8, 20]),
    ]:
        yield _scattered(facts, queries, lengths), sum(queries)


def _cases(facts: Facts):
    for heads, kv_heads, dim, window in [(4, 2, 8, None), (6, 1, 20, None), (2, 2, 16, 3), (4, 2, 8, 70)]:
        for sequences, tokens in _steps(facts):
            q = torch.randn(tokens, heads, dim, dtype=facts.dtype, device=facts.device)
            slots = sequences.slot_table.numel()
            pool = torch.randn(2, slots, kv_heads, dim, dtype=facts.dtype, device=facts.device)
            yield q, pool[0], pool[1], sequences, dim**-0.5, window


def arguments(
    facts: Facts,
    queries: Sequence[int],
    lengths: Sequence[int],
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    window: int | None = None,
) -> tuple[Any, ...]:
    """Random arguments of `attend` for sequences that run `queries` tokens on contexts of `lengths`, decodes first."""
    make = {"dtype": facts.dtype, "device": facts.device}
    sequences = _scattered(facts, queries, lengths)
    pool = torch.randn(2, sequences.slot_table.numel(), kv_heads, dim, **make)
    q = torch.randn(sum(queries), heads, dim, **make)
    return q, pool[0], pool[1], sequences, dim**-0.5, window


def _latent_cases(facts: Facts):
    for heads, rank, dim in [(4, 16, 8), (1, 20, 4)]:
        for sequences, tokens in _steps(facts):
            projected = _latent_projections(facts, tokens, heads, rank, dim, key_dim=6, value_dim=10)
            pool = torch.randn(sequences.slot_table.numel(), rank + dim, dtype=facts.dtype, device=facts.device)
            yield *projected, pool, sequences, dim**-0.5


def _latent_projections(
    facts: Facts, tokens: int, heads: int, rank: int, dim: int, *, key_dim: int, value_dim: int
) -> list[Tensor]:
    """Both parts of queries, and the matrices of keys and values, of numbers whose products are of the order of 1."""
    make = {"dtype": facts.dtype, "device": facts.device}
    fixed, turning = torch.randn(tokens, heads, key_dim, **make), torch.randn(tokens, heads, dim, **make)
    key, value = (torch.randn(heads, size, rank, **make) * rank**-0.5 for size in (key_dim, value_dim))
    return [fixed * key_dim**-0.5, turning, key, value]


def latent_arguments(
    facts: Facts,
    queries: Sequence[int],
    lengths: Sequence[int],
    *,
    heads: int,
    rank: int = 512,
    dim: int = 64,
    key_dim: int = 128,
    value_dim: int = 128,
) -> tuple[Any, ...]:
    """Random arguments of `attend_latent`, as `arguments` makes those of `attend`."""
    _, keys, _, sequences, scale, _ = arguments(facts, queries, lengths, heads=1, kv_heads=1, dim=rank + dim)
    projected = _latent_projections(facts, sum(queries), heads, rank, dim, key_dim=key_dim, value_dim=value_dim)
    return *projected, keys[:, 0], sequences, scale


@op(cases=_cases, tolerance=_TOLERANCE)
def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    """softmax(scale q K^T) V of every token over its sequence up to itself, or over the last `window` of these.

    q [tokens, heads, dim]; keys, values [pool slots, kv_heads, dim], this step's tokens stored already. Scores and
    softmax are float32, weights of the pool's dtype. Returns q's shape and dtype; undefined for tokens of no sequence.
    """
    group = q.shape[1] // keys.shape[1]
    output = torch.zeros_like(q)
    starts = sequences.query_start.tolist()
    for number, (start, stop) in enumerate(zip(starts, starts[1:], strict=False)):
        length = int(sequences.lengths[number])
        slots = sequences.slot_table[sequences.row[number], :length].long()
        key, value = (pool[slots].repeat_interleave(group, 1) for pool in (keys, values))
        # In 16 bits a score of 16 would be off by 0.06, and its weight by as much.
        scores = torch.einsum("qhd,khd->hqk", q[start:stop].float(), key.float()) * scale
        position = torch.arange(length, device=q.device)
        distance = position[length - (stop - start) :, None] - position
        hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(value.dtype)
        output[start:stop] = torch.einsum("hqk,khd->qhd", weights, value)
    return output


@op(cases=_latent_cases, tolerance=_TOLERANCE)
def attend_latent(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    sequences: Sequences,
    scale: float,
) -> Tensor:
    """As attend, where a token is one vector [latent, turned key] for all heads.

    A head's key is [key[head] latent, turned key], its value is value[head] latent. Queries are in two parts, `fixed`
    [tokens, heads, key_dim] and `turning` [tokens, heads, dim]; key [heads, key_dim, rank]; value [heads, value_dim,
    rank]; latents [pool slots, rank + dim]. Returns [tokens, heads, value_dim].

    Whether the matrices are applied to queries and sums (absorbed), or to the latents of a context (expanded), is
    up to the implementation. Source: arXiv:2405.04434 section 2.1.
    """
    rank = key.shape[2]
    q = absorbed(fixed, turning, key)
    keys = latents.unsqueeze(1)
    values = torch.nn.functional.pad(keys[..., :rank], (0, latents.shape[-1] - rank))
    sums = attend.reference(q, keys, values, sequences, scale, None)[..., :rank]
    return torch.einsum("thr,hvr->thv", sums, value)


def absorbed(fixed: Tensor, turning: Tensor, key: Tensor) -> Tensor:
    """Queries that meet latents themselves [tokens, heads, rank + dim]."""
    return torch.cat([torch.einsum("thk,hkr->thr", fixed, key), turning], dim=-1)
