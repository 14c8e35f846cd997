# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Root mean square norm, with and without adding first. Suffixes: R rows, W width."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, depends, rows_of, why_not

TILE = 2048  # numbers a program holds at least, so that narrow rows share one
NUMBERS_A_THREAD = 16  # two 16-byte loads of bfloat16


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(
    x, residual, weight, normed, total, rows, width, x_stride, residual_stride, eps,
    ADD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_W = tl.arange(0, WIDTH)
    mask_RW = (row_R < rows)[:, None] & (column_W < width)[None, :]
    begin(DEPENDENT)
    weight_W = tl.load(weight + column_W, mask=column_W < width, other=0.0)
    x_RW = tl.load(x + row_R[:, None] * x_stride + column_W[None, :], mask=mask_RW, other=0.0)
    if ADD:
        before_RW = tl.load(residual + row_R[:, None] * residual_stride + column_W[None, :], mask=mask_RW, other=0.0)
        # Rounded before it is normed: the sum that travels on is the one that was normed.
        x_RW = (x_RW.to(tl.float32) + before_RW.to(tl.float32)).to(x_RW.dtype)
        tl.store(total + row_R[:, None] * width + column_W[None, :], x_RW, mask=mask_RW)
    wide_RW = x_RW.to(tl.float32)
    scale_R = tl.rsqrt(tl.sum(wide_RW * wide_RW, axis=1) / width + eps)
    y_RW = (wide_RW * scale_R[:, None]).to(x_RW.dtype).to(tl.float32) * weight_W.to(tl.float32)[None, :]
    tl.store(normed + row_R[:, None] * width + column_W[None, :], y_RW.to(x_RW.dtype), mask=mask_RW)


def _launch(x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, add: bool) -> tuple[Tensor, Tensor]:
    rows, before = rows_of(x), rows_of(residual)
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty_like(normed) if add else normed
    width = triton.next_power_of_2(x.shape[-1])
    rows_a_program = max(TILE // width, 1)
    grid = (triton.cdiv(len(rows), rows_a_program),)
    if len(rows):
        dependent = depends(x.device)
        _rms_norm[grid](
            rows, before, weight, normed, total, len(rows), x.shape[-1], rows.stride(0), before.stride(0), eps,
            ADD=add, ROWS=rows_a_program, WIDTH=width, DEPENDENT=dependent, launch_pdl=dependent,
            num_warps=min(max(rows_a_program * width // (32 * NUMBERS_A_THREAD), 1), 16),
        )  # fmt: skip
    return normed, total


@ops.rms_norm.implementation("triton", why_not)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _launch(x, x, weight, eps, add=False)[0]


@ops.add_rms_norm.implementation("triton", why_not)
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _launch(x, residual, weight, eps, add=True)
