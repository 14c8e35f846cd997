"""Root mean square norm."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.layers.linear import Parts, Product, Unfinished
from lightllm.compute.ops.joined import Weighted
from lightllm.compute.ops.per_channel import Rounded
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

    def add(self, x: Unfinished, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of x and what came before it, which the sum may overwrite; None: nothing did."""
        if isinstance(x, Product):
            if residual is not None and ops.linear_add.pays(len(x.x)):
                total = ops.linear_add(x.x, x.matrix, residual)
                return self(total), total
            x = x.compute()
        if isinstance(x, Parts):
            assert residual is not None, "the first block is given a tensor"
            return ops.add_rms_norm_of_parts(x.parts, residual, self.weight, self.eps)
        if residual is None:
            return self(x), x
        return ops.add_rms_norm(x, residual, self.weight, self.eps)

    def add_for(
        self, reader: nn.Module, x: Unfinished, residual: Tensor | None
    ) -> tuple[Tensor | Weighted | Rounded, Tensor]:
        """As add, for a layer that may take the norm without its scales, or rounded."""
        if residual is None or not isinstance(reader, Joining):
            return self.add(x, residual)
        if isinstance(x, Product) and x.is_weighed and reader.takes_weighted(len(x.x)):
            weighted, squares, total = ops.linear_add_weigh(x.x, x.matrix, residual, self.weight)
            return Weighted(weighted, squares, self.eps), total
        if reader.rounded_to is None:
            return self.add(x, residual)
        x = x.compute() if isinstance(x, Product) else x
        how = (residual, self.weight, self.eps, reader.rounded_to)
        if isinstance(x, Parts):
            numbers, scale, total = ops.add_rms_norm_of_parts_rounded(x.parts, *how)
        else:
            numbers, scale, total = ops.add_rms_norm_rounded(x, *how)
        return Rounded(numbers, scale, residual.dtype), total


class Joining(nn.Module):
    """A layer between two norms of a block, whose first and last products may be joined with these.

    leaves_product: it returns its last product to be computed by the norm that adds it. Blocks set it.
    """

    leaves_product = False

    @property
    def rounded_to(self) -> torch.dtype | None:
        """What its input would be rounded to before anything else, each token with a scale of its own; it may be given
        Rounded then. None: it is not rounded."""
        raise NotImplementedError

    def takes_weighted(self, tokens: int) -> bool:
        """Whether it may be given Weighted."""
        raise NotImplementedError
