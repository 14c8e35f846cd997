# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Root mean square norm, with and without adding first, of products in parts, and rounded to 8 bits.

Suffixes: R rows, W width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import (
    cdiv,
    depends,
    let_next_start,
    next_power_of_2,
    rows_of,
    wait,
    why_not,
)
from lightllm.compute.kernels.triton.quantize import rounded
from lightllm.compute.ops.per_channel import LARGEST, SMALLEST_SCALE

TILE = 2048  # numbers a program holds at least, so that narrow rows share one
NUMBERS_A_THREAD = 8  # a 16-byte load of bfloat16


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(
    x, residual, weight, normed, scale, total, rows, width, x_stride, residual_stride, eps,
    ADD: tl.constexpr, PARTS: tl.constexpr, LARGEST: tl.constexpr, SMALLEST_SCALE: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """LARGEST: of the 8-bit numbers that the norm is rounded to; None: it is not. PARTS: of x, which are its sum; 0: it
    is whole."""
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, WIDTH)
    mask_RW = (row_R < rows)[:, None] & (column_W < width)[None, :]
    let_next_start(DEPENDENT)
    # Before anything waits, as memory is busy with the next product's weights afterwards.
    weight_W = tl.load(weight + column_W, mask=column_W < width, other=0.0)
    wait(DEPENDENT)
    from_RW = x + row_R[:, None] * x_stride + column_W[None, :]
    x_RW = tl.load(from_RW, mask=mask_RW, other=0.0)
    if PARTS > 0:
        for part in tl.static_range(1, PARTS):
            x_RW += tl.load(from_RW + part * rows * x_stride, mask=mask_RW, other=0.0)
        x_RW = x_RW.to(residual.dtype.element_ty)
    if ADD:
        before_RW = tl.load(residual + row_R[:, None] * residual_stride + column_W[None, :], mask=mask_RW, other=0.0)
        # Rounded before it is normed: the sum that travels on is the one that was normed.
        x_RW = (x_RW.to(tl.float32) + before_RW.to(tl.float32)).to(x_RW.dtype)
        tl.store(total + row_R[:, None] * width + column_W[None, :], x_RW, mask=mask_RW)
    wide_RW = x_RW.to(tl.float32)
    scale_R = tl.rsqrt(tl.sum(wide_RW * wide_RW, axis=1) / width + eps)
    y_RW = (wide_RW * scale_R[:, None]).to(x_RW.dtype).to(tl.float32) * weight_W.to(tl.float32)[None, :]
    y_RW = y_RW.to(x_RW.dtype)
    if LARGEST is not None:
        y_RW, scale_R = rounded(y_RW.to(tl.float32), LARGEST, SMALLEST_SCALE, normed.dtype.element_ty)
        tl.store(scale + row_R, scale_R, mask=row_R < rows)
    tl.store(normed + row_R[:, None] * width + column_W[None, :], y_RW, mask=mask_RW)


def _launch(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    *,
    add: bool,
    kind: torch.dtype | None = None,
    parts: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Norms, their scales if they are rounded to `kind`, and sums. parts: that x has on a first axis."""
    rows, before = rows_of(x[0] if parts else x), rows_of(residual)
    normed = torch.empty(residual.shape, dtype=kind or residual.dtype, device=x.device)
    scale = normed if kind is None else torch.empty(len(rows), dtype=torch.float32, device=x.device)
    total = torch.empty(residual.shape, dtype=residual.dtype, device=x.device) if add else normed
    width = next_power_of_2(x.shape[-1])
    rows_a_program = max(TILE // width, 1)
    grid = (cdiv(len(rows), rows_a_program),)
    if len(rows):
        dependent = depends(x.device)
        _rms_norm[grid](
            rows, before, weight, normed, scale, total, len(rows), x.shape[-1], rows.stride(0), before.stride(0), eps,
            ADD=add, PARTS=parts, LARGEST=None if kind is None else LARGEST[kind], SMALLEST_SCALE=SMALLEST_SCALE,
            ROWS=rows_a_program, WIDTH=width, DEPENDENT=dependent, launch_pdl=dependent,
            num_warps=min(max(rows_a_program * width // (32 * NUMBERS_A_THREAD), 1), 16),
        )  # fmt: skip
    return normed, scale, total


@ops.rms_norm.implementation("triton", why_not)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _launch(x, x, weight, eps, add=False)[0]


@ops.add_rms_norm.implementation("triton", why_not)
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed, _, total = _launch(x, residual, weight, eps, add=True)
    return normed, total


@ops.add_rms_norm_rounded.implementation("triton", why_not)
def add_rms_norm_rounded(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return _launch(x, residual, weight, eps, add=True, kind=kind)


@ops.add_rms_norm_of_parts.implementation("triton", why_not)
def add_rms_norm_of_parts(parts: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed, _, total = _launch(parts, residual, weight, eps, add=True, parts=len(parts))
    return normed, total


@ops.add_rms_norm_of_parts_rounded.implementation("triton", why_not)
def add_rms_norm_of_parts_rounded(
    parts: Tensor, residual: Tensor, weight: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return _launch(parts, residual, weight, eps, add=True, kind=kind, parts=len(parts))
