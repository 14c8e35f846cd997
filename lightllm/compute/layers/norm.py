"""Root mean square norm."""

from collections.abc import Mapping

from torch import Tensor, nn

from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.weights.weight import Declared, vector


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis."""

    weight: Tensor

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.width, self.eps = width, eps

    def place(self, site: Site) -> Mapping[str, Declared]:
        return {"weight": vector(f"{site.path}.weight", self.width, dummy=1.0)}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.weight = tensors["weight"]

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of x and what came before it; None: nothing did."""
        if residual is None:
            return self(x), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps)
