# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Looking up rows of a share of the vocabulary."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, why_not

BLOCK = 1024
WARPS = 4


@triton.jit
def _embedding(
    tokens, weight, out, first, rows, hidden, stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin(DEPENDENT)
    row = tl.load(tokens + token) - first
    is_here = (row >= 0) & (row < rows)
    numbers = tl.load(weight + row * stride + column, mask=is_here & (column < hidden), other=0.0)
    tl.store(out + token.to(tl.int64) * hidden + column, numbers, mask=column < hidden)


@ops.embedding.implementation("triton", why_not)
def embedding(tokens: Tensor, weight: Tensor, first: int) -> Tensor:
    hidden = weight.shape[1]
    out = torch.empty(len(tokens), hidden, dtype=weight.dtype, device=weight.device)
    if len(tokens):
        dependent = depends(weight.device)
        _embedding[(len(tokens), cdiv(hidden, BLOCK))](
            tokens, weight, out, first, len(weight), hidden, weight.stride(0),
            BLOCK=BLOCK, DEPENDENT=dependent, launch_pdl=dependent, num_warps=WARPS,
        )  # fmt: skip
    return out
