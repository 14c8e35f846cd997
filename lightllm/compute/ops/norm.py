"""Root mean square norm. Source: arXiv:1910.07467."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    for tokens, width in [(1, 64), (7, 128), (33, 96), (0, 32)]:
        x = torch.randn(tokens, width, dtype=facts.dtype, device=facts.device)
        yield x, torch.randn(width, dtype=facts.dtype, device=facts.device), 1e-6


def _sum_cases(facts: Facts):
    for x, weight, eps in _cases(facts):
        yield x, torch.randn_like(x), weight, eps


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
