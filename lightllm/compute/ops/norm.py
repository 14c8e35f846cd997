"""Root mean square norm. Source: arXiv:1910.07467."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import TOLERANCE, Facts, op
from lightllm.compute.ops.per_channel import quantized


def _cases(facts: Facts):
    for tokens, width in [(1, 64), (7, 128), (33, 96), (0, 32)]:
        x = torch.randn(tokens, width, dtype=facts.dtype, device=facts.device)
        yield x, torch.randn(width, dtype=facts.dtype, device=facts.device), 1e-6


def _sum_cases(facts: Facts):
    for x, weight, eps in _cases(facts):
        yield x, torch.randn_like(x), weight, eps


def _rounded_cases(facts: Facts):
    for arguments in _sum_cases(facts):
        for kind in (torch.float8_e4m3fn, torch.int8):
            yield *arguments, kind


@op(cases=_cases)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis, accumulated in float32.

    x [..., width]; weight [width]. Returns x's shape and dtype.
    """
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return weight * y.to(x.dtype)


@op(cases=_sum_cases)
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual). x, residual [..., width]; weight [width]."""
    residual = x + residual
    return rms_norm.reference(residual, weight, eps), residual


@op(cases=_rounded_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def add_rms_norm_rounded(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """add_rms_norm for products of 8 bits: numbers and scales of the norm (ops.per_channel.quantized), and the sum.

    x, residual [tokens, width]; weight [width]. Returns [tokens, width] of `kind`, [tokens] float32, [tokens, width].
    """
    normed, total = add_rms_norm.reference(x, residual, weight, eps)
    return *quantized(normed, kind), total
