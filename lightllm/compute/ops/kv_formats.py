"""Keys, values and latents kept in 8 or 4 bits: stored with a float32 scale for each token and head, read with it.

What a pool holds says its type: E4M3 floats, whole numbers of 8 bits, or in uint8 two whole numbers of 4 bits, the
first of a pair in the lower ones. Each is what was stored / its scale, the largest of a head being the type's largest.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightllm.compute.ops import attention, per_channel, rope
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.ops.op import TOLERANCE, Facts, op

KINDS = (torch.float8_e4m3fn, torch.int8, torch.uint8)
LARGEST_OF_4_BITS = 7
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}


def quantized(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [..., dim] as a pool of `kind` keeps it, and scales [...] float32."""
    if kind != torch.uint8:
        return per_channel.quantized(x, kind)
    scale = (x.abs().amax(-1).float() / LARGEST_OF_4_BITS).clamp(min=per_channel.SMALLEST_SCALE)
    numbers = (x.float() / scale.unsqueeze(-1)).round().to(torch.int8) & 15
    return (numbers[..., ::2] | numbers[..., 1::2] << 4).view(torch.uint8), scale


def dequantized(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that `stored` stands for [..., dim]."""
    if stored.dtype == torch.uint8:
        pairs = stored.view(torch.int8)
        stored = torch.stack([pairs << 4 >> 4, pairs >> 4], dim=-1).flatten(-2)
    return per_channel.dequantized(stored, scale, dtype)


def _store_cases(facts: Facts):
    for kind in KINDS:
        for *given, keys, values in rope.norm_rotate_store.cases(facts):
            pools = [part for pool in (keys, values) for part in quantized(pool, kind)]
            yield *given, *pools


def _latent_store_cases(facts: Facts):
    for kind in KINDS:
        for *given, latents in rope.norm_rotate_store_latent.cases(facts):
            yield *given, *quantized(latents, kind)


def _each_in_a_kind(cases: Iterable[tuple[Any, ...]]) -> Iterator[tuple[torch.dtype, tuple[Any, ...]]]:
    """Cases, of which neighbours are of different kinds."""
    return ((KINDS[(i + i // len(KINDS)) % len(KINDS)], case) for i, case in enumerate(cases))


def _attend_cases(facts: Facts):
    for kind, (q, keys, values, *rest) in _each_in_a_kind(attention.attend.cases(facts)):
        yield q, *quantized(keys, kind), *quantized(values, kind), *rest


def _latent_attend_cases(facts: Facts):
    for kind, (fixed, turning, key, value, latents, *rest) in _each_in_a_kind(attention.attend_latent.cases(facts)):
        yield fixed, turning, key, value, *quantized(latents, kind), *rest


@op(cases=_store_cases)
def norm_rotate_store_quantized(
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
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
) -> Tensor:
    """As norm_rotate_store, into pools of fewer bits and their scales [pool slots, kv_heads]."""
    here = torch.arange(len(k), device=k.device)
    turned, kept = torch.empty_like(k), torch.empty_like(v)
    q = rope.norm_rotate_store.reference(q, k, v, q_weight, k_weight, eps, positions, table, here, turned, kept)
    store(turned, slots, keys, key_scale)
    store(kept, slots, values, value_scale)
    return q


@op(cases=_latent_store_cases)
def norm_rotate_store_latent_quantized(
    q: Tensor,
    compressed: Tensor,
    weight: Tensor,
    eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    latents: Tensor,
    scale: Tensor,
) -> Tensor:
    """As norm_rotate_store_latent, into a pool of fewer bits and its scales [pool slots]."""
    here, turned = torch.arange(len(compressed), device=q.device), torch.empty_like(compressed)
    q = rope.norm_rotate_store_latent.reference(q, compressed, weight, eps, positions, table, here, turned)
    store(turned, slots, latents, scale)
    return q


def store(x: Tensor, slots: Tensor, pool: Tensor, scale: Tensor) -> None:
    """pool[slots], scale[slots] = x quantized."""
    numbers, scales = quantized(x, pool.dtype)
    # Their bytes: not every type of 8 bits can be indexed.
    pool.view(torch.uint8).index_copy_(0, slots, numbers.view(torch.uint8))
    scale.index_copy_(0, slots, scales)


@op(cases=_attend_cases, tolerance=_TOLERANCE)
def attend_quantized(
    q: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    """As attend, computed in q's type from what the pools stand for; their scales [pool slots, kv_heads]."""
    pools = (dequantized(keys, key_scale, q.dtype), dequantized(values, value_scale, q.dtype))
    return attention.attend.reference(q, *pools, sequences, scale, window)


@op(cases=_latent_attend_cases, tolerance=_TOLERANCE)
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
    """As attend_latent, computed in the queries' type from what the pool stands for; its scales [pool slots]."""
    pool = dequantized(latents, latent_scale, fixed.dtype)
    return attention.attend_latent.reference(fixed, turning, key, value, pool, sequences, scale)
