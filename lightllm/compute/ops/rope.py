"""Rotary position embedding, and the fused step from fresh projections to stored keys. Source: arXiv:2104.09864."""

import torch
from torch import Tensor

from lightllm.compute.ops.norm import rms_norm
from lightllm.compute.ops.op import Facts, op


def _table(positions: int, dim: int, facts: Facts) -> Tensor:
    angles = torch.rand(positions, dim // 2, device=facts.device) * 6
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _rotate_cases(facts: Facts):
    for tokens, heads, dim in [(1, 1, 8), (5, 3, 64)]:
        x = torch.randn(tokens, heads, dim, dtype=facts.dtype, device=facts.device)
        yield x, torch.randint(0, 20, (tokens,), device=facts.device), _table(20, dim, facts)


def _store_cases(facts: Facts):
    for tokens, heads, kv_heads, dim, normed in [(1, 4, 2, 8, True), (7, 3, 1, 64, True), (5, 4, 4, 16, False)]:
        qkv = torch.randn(tokens, heads + 2 * kv_heads, dim, dtype=facts.dtype, device=facts.device)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        weights = [torch.randn(dim, dtype=facts.dtype, device=facts.device) if normed else None for _ in "qk"]
        positions = torch.randint(0, 20, (tokens,), device=facts.device)
        slots = torch.randperm(32, device=facts.device)[:tokens]
        pools = torch.zeros(2, 32, kv_heads, dim, dtype=facts.dtype, device=facts.device)
        yield q, k, v, *weights, 1e-6, positions, _table(20, dim, facts), slots, pools[0], pools[1]


def _latent_cases(facts: Facts):
    for tokens, heads, rank, dim in [(1, 2, 16, 8), (6, 4, 24, 16)]:
        q = torch.randn(tokens, heads, dim, dtype=facts.dtype, device=facts.device)
        compressed = torch.randn(tokens, rank + dim, dtype=facts.dtype, device=facts.device)
        weight = torch.randn(rank, dtype=facts.dtype, device=facts.device)
        positions = torch.randint(0, 20, (tokens,), device=facts.device)
        slots = torch.randperm(32, device=facts.device)[:tokens]
        pool = torch.zeros(32, rank + dim, dtype=facts.dtype, device=facts.device)
        yield q, compressed, weight, 1e-6, positions, _table(20, dim, facts), slots, pool


@op(cases=_rotate_cases)
def rotate_halves(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + dim / 2]) by its angle at the token's position.

    x [tokens, heads, dim]; positions [tokens]; table [positions, dim] float32, cosines then sines.
    Returns a new tensor like x.
    """
    cos, sin = (part.unsqueeze(1).to(x.dtype) for part in table[positions].chunk(2, dim=-1))
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@op(cases=_rotate_cases)
def rotate_pairs(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    """As rotate_halves, but the pairs are neighbours: (x[2 i], x[2 i + 1])."""
    cos, sin = (part.unsqueeze(1).to(x.dtype) for part in table[positions].chunk(2, dim=-1))
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


@op(cases=_store_cases)
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
    """keys[slots] = rotate(norm(k)), values[slots] = v; returns rotate(norm(q)). Weights None: no norm.

    q [tokens, heads, dim]; k, v [tokens, kv_heads, dim]; q_weight, k_weight [dim]; positions, slots [tokens];
    table [positions, dim]; keys, values [pool slots, kv_heads, dim] are written in place.
    """
    if q_weight is not None and k_weight is not None:
        q, k = rms_norm.reference(q, q_weight, eps), rms_norm.reference(k, k_weight, eps)
    keys[slots] = rotate_halves.reference(k, positions, table).to(keys.dtype)
    values[slots] = v.to(values.dtype)
    return rotate_halves.reference(q, positions, table)


@op(cases=_latent_cases)
def norm_rotate_store_latent(
    q: Tensor,
    compressed: Tensor,
    weight: Tensor,
    eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    latents: Tensor,
) -> Tensor:
    """latents[slots] = [norm(latent), rotate(key)] where compressed = [latent, key]; returns rotate(q).

    q [tokens, heads, dim] the part of the query that turns; compressed [tokens, rank + dim]; weight [rank];
    latents [pool slots, rank + dim] is written in place. Pairs are neighbours.
    """
    latent, key = compressed.split([len(weight), q.shape[-1]], dim=-1)
    key = rotate_pairs.reference(key.unsqueeze(1), positions, table).squeeze(1)
    latents[slots] = torch.cat([rms_norm.reference(latent, weight, eps), key], dim=-1).to(latents.dtype)
    return rotate_pairs.reference(q, positions, table)
