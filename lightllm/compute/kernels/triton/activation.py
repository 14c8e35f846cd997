# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Gated activations."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, rows_of, why_not

BLOCK = 1024
WARPS = 4


@triton.jit
def _silu_and_mul(gate_up, out, width, stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < width
    begin(DEPENDENT)
    gate = tl.load(gate_up + row * stride + column, mask=mask, other=0.0)
    up = tl.load(gate_up + row * stride + width + column, mask=mask, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    tl.store(out + row * width + column, (wide / (1.0 + tl.exp(-wide)) * up).to(gate.dtype), mask=mask)


@ops.silu_and_mul.implementation("triton", why_not)
def silu_and_mul(gate_up: Tensor) -> Tensor:
    rows, width = rows_of(gate_up), gate_up.shape[-1] // 2
    out = torch.empty(*gate_up.shape[:-1], width, dtype=gate_up.dtype, device=gate_up.device)
    if len(rows):
        dependent = depends(gate_up.device)
        _silu_and_mul[(len(rows), cdiv(width, BLOCK))](
            rows, out, width, rows.stride(0), BLOCK=BLOCK, DEPENDENT=dependent, launch_pdl=dependent, num_warps=WARPS
        )
    return out
