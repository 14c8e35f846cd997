# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""The fused steps from fresh projections to keys, values and latents stored in fewer bits, with their scales.

As in rope.py. What is stored is rounded to the projections' type first, so that its scale is that of the reference.
Suffixes: H heads, D pairs of numbers in a head, L pairs of numbers of a latent.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.kernels.triton.kv_formats import LEAST_SCALE, stored
from lightllm.compute.kernels.triton.launch import OLDEST, begin, card, cdiv, depends, next_power_of_2, why_not
from lightllm.compute.kernels.triton.rope import load_rotated, rotate_neighbours, store_halves, tile_for
from lightllm.compute.ops.kv_formats import LARGEST_OF_4_BITS
from lightllm.compute.ops.per_channel import LARGEST

OLDEST_OF_8_BIT_FLOATS = (8, 9)  # compute capability


@triton.jit
def _store_quantized(
    a_HD, b_HD, out, out_stride, scale, head_H, heads, half, LARGEST: tl.constexpr, PACKED: tl.constexpr
):
    """Writes heads of one token, of each two halves of `half` numbers, and their scales."""
    largest_H = tl.maximum(tl.max(tl.abs(a_HD), axis=1), tl.max(tl.abs(b_HD), axis=1))
    scale_H = tl.maximum(largest_H / LARGEST, LEAST_SCALE)
    tl.store(scale + head_H, scale_H, mask=head_H < heads)
    a_HD = stored(a_HD / scale_H[:, None], PACKED, out.dtype.element_ty)
    b_HD = stored(b_HD / scale_H[:, None], PACKED, out.dtype.element_ty)
    store_halves(a_HD, b_HD, out, out_stride, head_H, heads, half // PACKED)


@triton.jit
def _norm_rotate_store(
    q, k, v, q_weight, k_weight, eps, positions, table, slots, out, keys, key_scale, values, value_scale, heads,
    kv_heads, dim, q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride, table_stride,
    keys_stride, keys_head_stride, values_stride, values_head_stride, scale_stride,
    NORMED: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, LARGEST: tl.constexpr, PACKED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One token, HEADS heads: of q first, then of k, then of v, as program_id(1) counts on."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks, kv_blocks = tl.cdiv(heads, HEADS), tl.cdiv(kv_heads, HEADS)
    pair_D, half = tl.arange(0, PAIRS), dim // 2
    begin(DEPENDENT)
    slot = tl.load(slots + token)
    if block < q_blocks + kv_blocks:
        angle_D = table + tl.load(positions + token) * table_stride + pair_D
        cos_D = tl.load(angle_D, mask=pair_D < half, other=0.0)
        sin_D = tl.load(angle_D + half, mask=pair_D < half, other=0.0)
        if block < q_blocks:
            head_H = block * HEADS + tl.arange(0, HEADS)
            a_HD, b_HD = load_rotated(
                q + token * q_stride, q_weight, eps, head_H, heads, q_head_stride, cos_D, sin_D, dim, NORMED, PAIRS
            )
            store_halves(a_HD, b_HD, out + token * heads * dim, dim, head_H, heads, half)
        else:
            head_H = (block - q_blocks) * HEADS + tl.arange(0, HEADS)
            a_HD, b_HD = load_rotated(
                k + token * k_stride, k_weight, eps, head_H, kv_heads, k_head_stride, cos_D, sin_D, dim, NORMED, PAIRS
            )
            a_HD, b_HD = a_HD.to(k.dtype.element_ty).to(tl.float32), b_HD.to(k.dtype.element_ty).to(tl.float32)
            _store_quantized(
                a_HD, b_HD, keys + slot * keys_stride, keys_head_stride, key_scale + slot * scale_stride, head_H,
                kv_heads, half, LARGEST, PACKED,
            )  # fmt: skip
    else:
        head_H = (block - q_blocks - kv_blocks) * HEADS + tl.arange(0, HEADS)
        mask_HD = (head_H < kv_heads)[:, None] & (pair_D < half)[None, :]
        from_HD = v + token * v_stride + head_H[:, None] * v_head_stride + pair_D[None, :]
        a_HD = tl.load(from_HD, mask=mask_HD, other=0.0).to(tl.float32)
        b_HD = tl.load(from_HD + half, mask=mask_HD, other=0.0).to(tl.float32)
        _store_quantized(
            a_HD, b_HD, values + slot * values_stride, values_head_stride, value_scale + slot * scale_stride, head_H,
            kv_heads, half, LARGEST, PACKED,
        )  # fmt: skip


@triton.jit
def _norm_rotate_store_latent(
    q, compressed, weight, eps, positions, table, slots, out, latents, latent_scale, heads, rank, dim,
    q_stride, q_head_stride, compressed_stride, table_stride, latents_stride, scale_stride,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, RANK: tl.constexpr, LARGEST: tl.constexpr, PACKED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One token: first its latent and key, then HEADS heads of q, as program_id(1) counts on."""
    token, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    pair_D, half = tl.arange(0, PAIRS), dim // 2
    mask_D = pair_D < half
    begin(DEPENDENT)
    angle_D = table + tl.load(positions + token) * table_stride + pair_D
    cos_D = tl.load(angle_D, mask=mask_D, other=0.0)
    sin_D = tl.load(angle_D + half, mask=mask_D, other=0.0)
    if block == 0:
        number_L = tl.arange(0, RANK)
        kind: tl.constexpr = compressed.dtype.element_ty
        compressed += token * compressed_stride
        latent_L = tl.load(compressed + number_L, mask=number_L < rank, other=0.0).to(tl.float32)
        norm = tl.rsqrt(tl.sum(latent_L * latent_L, axis=0) / rank + eps)
        latent_L *= norm * tl.load(weight + number_L, mask=number_L < rank, other=0.0).to(tl.float32)
        latent_L = latent_L.to(kind).to(tl.float32)
        key = compressed + rank + 2 * pair_D
        a_D, b_D = tl.load(key, mask=mask_D, other=0.0), tl.load(key + 1, mask=mask_D, other=0.0)
        a_D, b_D = a_D.to(tl.float32), b_D.to(tl.float32)
        key_D = tl.interleave(a_D * cos_D - b_D * sin_D, b_D * cos_D + a_D * sin_D).to(kind).to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(latent_L), axis=0), tl.max(tl.abs(key_D), axis=0))
        scale = tl.maximum(largest / LARGEST, LEAST_SCALE)
        slot = tl.load(slots + token)
        tl.store(latent_scale + slot * scale_stride, scale)
        to = latents + slot * latents_stride
        place_L, place_D = tl.arange(0, RANK // PACKED), tl.arange(0, 2 * PAIRS // PACKED)
        latent_1L = stored((latent_L / scale)[None, :], PACKED, latents.dtype.element_ty)
        key_1D = stored((key_D / scale)[None, :], PACKED, latents.dtype.element_ty)
        tl.store(to + place_L[None, :], latent_1L, mask=(place_L < rank // PACKED)[None, :])
        tl.store(to + rank // PACKED + place_D[None, :], key_1D, mask=(place_D < dim // PACKED)[None, :])
    else:
        head_H = (block - 1) * HEADS + tl.arange(0, HEADS)
        x_HD = q + token * q_stride + head_H[:, None] * q_head_stride + 2 * pair_D[None, :]
        to_HD = out + (token * heads + head_H[:, None]) * dim + 2 * pair_D[None, :]
        mask_HD = (head_H < heads)[:, None] & mask_D[None, :]
        rotate_neighbours(x_HD, to_HD, cos_D[None, :], sin_D[None, :], mask_HD)


def _largest(pool: Tensor) -> float:
    """Of the numbers that a pool keeps. Raises ConfigError if this device cannot make them."""
    capability = card(pool.device).capability
    if pool.dtype == torch.float8_e4m3fn and OLDEST <= capability < OLDEST_OF_8_BIT_FLOATS:
        have, need = (".".join(map(str, one)) for one in (capability, OLDEST_OF_8_BIT_FLOATS))
        raise ConfigError(f"--kv_type=fp8 needs compute capability {need}, this device has {have}; use int8")
    return LARGEST.get(pool.dtype, float(LARGEST_OF_4_BITS))


@ops.norm_rotate_store_quantized.implementation("triton", why_not)
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
    tokens, heads, dim = q.shape
    kv_heads, packed = k.shape[1], dim // keys.shape[2]
    assert q.stride(2) == k.stride(2) == v.stride(2) == keys.stride(2) == values.stride(2) == 1, "a head lies in a run"
    assert dim // 2 % packed == 0, f"half of a head of {dim} numbers must be whole bytes"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    normed = q_weight is not None and k_weight is not None
    count, pairs, warps = tile_for(max(heads, kv_heads), dim)
    if tokens:
        dependent = depends(q.device)
        _norm_rotate_store[(tokens, cdiv(heads, count) + 2 * cdiv(kv_heads, count))](
            q, k, v, q_weight, k_weight, eps, positions, table, slots, out, keys, key_scale, values, value_scale, heads,
            kv_heads, dim, q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
            table.stride(0), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1), key_scale.stride(0),
            NORMED=normed, HEADS=count, PAIRS=pairs, LARGEST=_largest(keys), PACKED=packed, DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=warps,
        )  # fmt: skip
    return out


@ops.norm_rotate_store_latent_quantized.implementation("triton", why_not)
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
    tokens, heads, dim = q.shape
    assert q.stride(2) == compressed.stride(1) == latents.stride(1) == 1, "a vector lies in a run"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    count, pairs, warps = tile_for(heads, dim)
    if tokens:
        dependent = depends(q.device)
        _norm_rotate_store_latent[(tokens, 1 + cdiv(heads, count))](
            q, compressed, weight, eps, positions, table, slots, out, latents, scale, heads, len(weight), dim,
            q.stride(0), q.stride(1), compressed.stride(0), table.stride(0), latents.stride(0), scale.stride(0),
            HEADS=count, PAIRS=pairs, RANK=next_power_of_2(len(weight)), LARGEST=_largest(latents),
            PACKED=compressed.shape[1] // latents.shape[1], DEPENDENT=dependent, launch_pdl=dependent, num_warps=warps,
        )  # fmt: skip
    return out
