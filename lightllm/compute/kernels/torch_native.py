"""Ops that PyTorch itself computes in a call or two, on any device."""

import torch
from torch import Tensor

from lightllm.compute import ops


@ops.rms_norm.implementation("torch_native")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.rms_norm(x, weight.shape, weight, eps)


@ops.add_rms_norm.implementation("torch_native")
def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    residual = x + residual
    return torch.rms_norm(residual, weight.shape, weight, eps), residual
