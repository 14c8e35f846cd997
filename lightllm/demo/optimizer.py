"""Muon: steps of equal size in every direction of a matrix. Source: Keller Jordan and others, "Muon", 2024."""

from collections import defaultdict
from collections.abc import Iterable

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


class Muon(torch.optim.Optimizer):
    """All matrices of one shape are worked on at once; a tall one counts as its transpose."""

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float):
        shapes: defaultdict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            shapes[tuple(sorted(matrix.shape))].append(matrix)
        super().__init__([{"params": group} for group in shapes.values()], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            matrices = group["params"]
            wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT for matrix in matrices]
            gradients = torch.stack([m.grad if w is m else m.grad.mT for m, w in zip(matrices, wide, strict=True)])
            state = self.state[matrices[0]]
            momentum = state.setdefault("momentum", torch.zeros_like(gradients))
            momentum.lerp_(gradients, 1 - MOMENTUM)
            updates = orthogonalize(gradients.lerp(momentum, MOMENTUM))
            size = STEP_SIZE * updates.shape[-1] ** 0.5
            torch._foreach_mul_(wide, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(wide, list(updates.to(wide[0].dtype).unbind()), alpha=-group["lr"] * size)
