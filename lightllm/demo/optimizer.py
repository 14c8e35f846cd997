"""Muon: steps of equal size in every direction of a matrix. Source: Keller Jordan and others, "Muon", 2024."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# The published quintic: five rounds bring singular values of 0.01 to 1 near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Makes a step as large as AdamW's usually is, so that the same learning rates serve. Source: arXiv:2502.16982.
STEP_SIZE = 0.2


def orthogonalize(matrices: Tensor) -> Tensor:
    """matrices [n, rows, columns], rows <= columns -> the nearest with orthonormal rows, roughly, in bfloat16."""
    a, b, c = QUINTIC
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def wide(matrix: Tensor) -> Tensor:
    """The matrix, or a view of its transpose where it is taller than wide."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


class Muon:
    """All matrices of one shape are worked on at once; a tall one counts as its transpose."""

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float):
        shapes: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            shapes[tuple(sorted(matrix.shape))].append(matrix)
        self.weight_decay = weight_decay
        # As torch's optimizers have them, so that one schedule sets every learning rate.
        self.param_groups: list[dict[str, Any]] = [{"params": group, "lr": lr} for group in shapes.values()]
        self.momenta: list[Tensor | None] = [None] * len(shapes)

    @torch.no_grad()
    def step(self) -> None:
        for i, group in enumerate(self.param_groups):
            matrices: list[nn.Parameter] = group["params"]
            gradients = torch.stack([wide(matrix.grad) for matrix in matrices if matrix.grad is not None])
            before = self.momenta[i]
            momentum = torch.lerp(torch.zeros_like(gradients) if before is None else before, gradients, 1 - MOMENTUM)
            self.momenta[i] = momentum
            updates = orthogonalize(gradients.lerp(momentum, MOMENTUM))
            size = STEP_SIZE * updates.shape[-1] ** 0.5
            for matrix, update in zip(matrices, updates.to(gradients.dtype), strict=True):
                wide(matrix).mul_(1 - group["lr"] * self.weight_decay).add_(update, alpha=-group["lr"] * size)
