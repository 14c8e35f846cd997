# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Rotary position embedding, and the fused steps from fresh projections to stored keys or latents.

Suffixes: H heads, D pairs of numbers in a head. `a` and `b` are the two numbers of each pair.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import (
    begin,
    cdiv,
    depends,
    let_next_start,
    next_power_of_2,
    wait,
    why_not,
)

TILE = 1024  # numbers a program holds


@triton.jit
def _rotate(
    x, out, positions, table, heads, dim, token_stride, head_stride, table_stride,
    NEIGHBOURS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Turns HEADS heads of one token. Pairs are (i, i + dim / 2), or (2 i, 2 i + 1) if NEIGHBOURS."""
    token = tl.program_id(0).to(tl.int64)
    head_H = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair_D = tl.arange(0, PAIRS)
    half = dim // 2
    mask_HD = (head_H < heads)[:, None] & (pair_D < half)[None, :]
    first_D, apart = (2 * pair_D, 1) if NEIGHBOURS else (pair_D, half)
    begin(DEPENDENT)
    angle_D = table + tl.load(positions + token) * table_stride + pair_D
    cos_D = tl.load(angle_D, mask=pair_D < half, other=0.0)
    sin_D = tl.load(angle_D + half, mask=pair_D < half, other=0.0)
    at_HD = x + token * token_stride + head_H[:, None] * head_stride + first_D[None, :]
    a_HD = tl.load(at_HD, mask=mask_HD, other=0.0).to(tl.float32)
    b_HD = tl.load(at_HD + apart, mask=mask_HD, other=0.0).to(tl.float32)
    to_HD = out + (token * heads + head_H[:, None]) * dim + first_D[None, :]
    tl.store(to_HD, (a_HD * cos_D - b_HD * sin_D).to(x.dtype.element_ty), mask=mask_HD)
    tl.store(to_HD + apart, (b_HD * cos_D + a_HD * sin_D).to(x.dtype.element_ty), mask=mask_HD)


@triton.jit
def load_rotated(
    x, weight, eps, head_H, heads, head_stride, cos_D, sin_D, dim, NORMED: tl.constexpr, PAIRS: tl.constexpr
):
    """rotate(norm(x[h])) for heads of one token, in two halves; zeros where there are none."""
    pair_D = tl.arange(0, PAIRS)
    half = dim // 2
    mask_D = pair_D < half
    mask_HD = (head_H < heads)[:, None] & mask_D[None, :]
    at_HD = x + head_H[:, None] * head_stride + pair_D[None, :]
    a_HD = tl.load(at_HD, mask=mask_HD, other=0.0).to(tl.float32)
    b_HD = tl.load(at_HD + half, mask=mask_HD, other=0.0).to(tl.float32)
    if NORMED:
        scale_H = tl.rsqrt((tl.sum(a_HD * a_HD, axis=1) + tl.sum(b_HD * b_HD, axis=1)) / dim + eps)
        a_HD *= scale_H[:, None] * tl.load(weight + pair_D, mask=mask_D, other=0.0).to(tl.float32)[None, :]
        b_HD *= scale_H[:, None] * tl.load(weight + half + pair_D, mask=mask_D, other=0.0).to(tl.float32)[None, :]
    return a_HD * cos_D - b_HD * sin_D, b_HD * cos_D + a_HD * sin_D


@triton.jit
def store_halves(a_HD, b_HD, out, out_stride, head_H, heads, half):
    """Writes heads of one token, of each two halves of `half` numbers."""
    pair_D = tl.arange(0, a_HD.shape[1])
    mask_HD = (head_H < heads)[:, None] & (pair_D < half)[None, :]
    to_HD = out + head_H[:, None] * out_stride + pair_D[None, :]
    tl.store(to_HD, a_HD.to(out.dtype.element_ty), mask=mask_HD)
    tl.store(to_HD + half, b_HD.to(out.dtype.element_ty), mask=mask_HD)


@triton.jit
def _norm_rotate_store(
    q, k, v, q_weight, k_weight, eps, positions, table, slots, out, keys, values, heads, kv_heads, dim,
    q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride, table_stride,
    keys_stride, keys_head_stride, values_stride, values_head_stride,
    NORMED: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One token, HEADS heads: of q first, then of k, then of v, as program_id(1) counts on."""
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    q_blocks, kv_blocks = tl.cdiv(heads, HEADS), tl.cdiv(kv_heads, HEADS)
    pair_D = tl.arange(0, PAIRS)
    half = dim // 2
    let_next_start(DEPENDENT)
    # Before anything waits: no kernel of a step writes these.
    slot = tl.load(slots + token)
    angle_D = table + tl.load(positions + token) * table_stride + pair_D
    cos_D = tl.load(angle_D, mask=pair_D < half, other=0.0)
    sin_D = tl.load(angle_D + half, mask=pair_D < half, other=0.0)
    wait(DEPENDENT)
    if block < q_blocks + kv_blocks:
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
            store_halves(a_HD, b_HD, keys + slot * keys_stride, keys_head_stride, head_H, kv_heads, half)
    else:
        head_H = (block - q_blocks - kv_blocks) * HEADS + tl.arange(0, HEADS)
        column_D = tl.arange(0, 2 * PAIRS)
        mask_HD = (head_H < kv_heads)[:, None] & (column_D < dim)[None, :]
        from_HD = v + token * v_stride + head_H[:, None] * v_head_stride + column_D[None, :]
        to_HD = values + slot * values_stride + head_H[:, None] * values_head_stride + column_D[None, :]
        tl.store(to_HD, tl.load(from_HD, mask=mask_HD, other=0.0).to(values.dtype.element_ty), mask=mask_HD)


@triton.jit
def rotate_neighbours(x, out, cos_D, sin_D, mask_D):
    """Turns pairs (2 i, 2 i + 1) of numbers that lie in a run. x, out: any leading axes, of which mask_D knows."""
    a_D, b_D = tl.load(x, mask=mask_D, other=0.0).to(tl.float32), tl.load(x + 1, mask=mask_D, other=0.0).to(tl.float32)
    tl.store(out, (a_D * cos_D - b_D * sin_D).to(out.dtype.element_ty), mask=mask_D)
    tl.store(out + 1, (b_D * cos_D + a_D * sin_D).to(out.dtype.element_ty), mask=mask_D)


@triton.jit
def _norm_rotate_store_latent(
    q, compressed, weight, eps, positions, table, slots, out, latents, heads, rank, dim,
    q_stride, q_head_stride, compressed_stride, table_stride, latents_stride,
    HEADS: tl.constexpr, PAIRS: tl.constexpr, RANK: tl.constexpr, DEPENDENT: tl.constexpr,
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
        column_L = tl.arange(0, RANK)
        mask_L = column_L < rank
        to = latents + tl.load(slots + token) * latents_stride
        compressed += token * compressed_stride
        latent_L = tl.load(compressed + column_L, mask=mask_L, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(latent_L * latent_L, axis=0) / rank + eps)
        latent_L *= scale * tl.load(weight + column_L, mask=mask_L, other=0.0).to(tl.float32)
        tl.store(to + column_L, latent_L.to(latents.dtype.element_ty), mask=mask_L)
        rotate_neighbours(compressed + rank + 2 * pair_D, to + rank + 2 * pair_D, cos_D, sin_D, mask_D)
    else:
        head_H = (block - 1) * HEADS + tl.arange(0, HEADS)
        x_HD = q + token * q_stride + head_H[:, None] * q_head_stride + 2 * pair_D[None, :]
        to_HD = out + (token * heads + head_H[:, None]) * dim + 2 * pair_D[None, :]
        mask_HD = (head_H < heads)[:, None] & mask_D[None, :]
        rotate_neighbours(x_HD, to_HD, cos_D[None, :], sin_D[None, :], mask_HD)


def tile_for(heads: int, dim: int) -> tuple[int, int, int]:
    """Heads a program, pairs a head, and warps."""
    pairs = next_power_of_2(dim // 2)
    count = max(min(TILE // (2 * pairs), next_power_of_2(heads)), 1)
    return count, pairs, max(min(count * pairs // 256, 4), 1)


def _turned(x: Tensor, positions: Tensor, table: Tensor, *, neighbours: bool) -> Tensor:
    tokens, heads, dim = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    count, pairs, warps = tile_for(heads, dim)
    if tokens:
        dependent = depends(x.device)
        _rotate[(tokens, cdiv(heads, count))](
            x, out, positions, table, heads, dim, x.stride(0), x.stride(1), table.stride(0),
            NEIGHBOURS=neighbours, HEADS=count, PAIRS=pairs, DEPENDENT=dependent, launch_pdl=dependent,
            num_warps=warps,
        )  # fmt: skip
    return out


@ops.rotate_halves.implementation("triton", why_not)
def rotate_halves(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    return _turned(x, positions, table, neighbours=False)


@ops.rotate_pairs.implementation("triton", why_not)
def rotate_pairs(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    return _turned(x, positions, table, neighbours=True)


@ops.norm_rotate_store.implementation("triton", why_not)
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
    tokens, heads, dim = q.shape
    kv_heads = k.shape[1]
    assert q.stride(2) == k.stride(2) == v.stride(2) == keys.stride(2) == values.stride(2) == 1, "a head lies in a run"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    normed = q_weight is not None and k_weight is not None
    count, pairs, warps = tile_for(max(heads, kv_heads), dim)
    if tokens:
        dependent = depends(q.device)
        _norm_rotate_store[(tokens, cdiv(heads, count) + 2 * cdiv(kv_heads, count))](
            q, k, v, q_weight, k_weight, eps, positions, table, slots, out, keys, values, heads, kv_heads, dim,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), table.stride(0),
            keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
            NORMED=normed, HEADS=count, PAIRS=pairs, DEPENDENT=dependent, launch_pdl=dependent, num_warps=warps,
        )  # fmt: skip
    return out


@ops.norm_rotate_store_latent.implementation("triton", why_not)
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
    tokens, heads, dim = q.shape
    assert q.stride(2) == compressed.stride(1) == latents.stride(1) == 1, "a vector lies in a run"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    count, pairs, warps = tile_for(heads, dim)
    if tokens:
        dependent = depends(q.device)
        _norm_rotate_store_latent[(tokens, 1 + cdiv(heads, count))](
            q, compressed, weight, eps, positions, table, slots, out, latents, heads, len(weight), dim,
            q.stride(0), q.stride(1), compressed.stride(0), table.stride(0), latents.stride(0),
            HEADS=count, PAIRS=pairs, RANK=next_power_of_2(len(weight)), DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=warps,
        )  # fmt: skip
    return out
