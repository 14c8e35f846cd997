"""The interface every way of storing a linear layer's weight implements."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from lightllm.compute.ops.per_channel import Rounded
from lightllm.compute.weights.weight import Declared, Matrix

Tensors: TypeAlias = Mapping[str, Tensor]


class Routed(NamedTuple):
    """The experts of each token, as ops.gated_experts takes them."""

    choice: Tensor  # [tokens, top_k] int
    share: Tensor  # [tokens, top_k]
    first: int  # of the experts that this rank holds


class LinearMethod(Protocol):
    """A format. Holds no tensors: those it declares come back to it with every call."""

    @property
    def name(self) -> str: ...

    def declare(self, matrix: Matrix) -> Mapping[str, Declared]:
        """The tensors that make up this part of a matrix. Raises ConfigError if it cannot be cut there."""
        ...

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        """What `multiply` and `gated` are to be given: the tensors as they were declared, now that they are loaded, or
        the same numbers in the order in which the device computes with them fastest."""
        ...

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [tokens, inputs] -> W x + bias [tokens, outputs]."""
        ...

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        """silu(G x + b) * (U x + c) [tokens, outputs / 2], where W is G above U and bias b above c."""
        ...

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        """W [outputs, inputs] itself."""
        ...

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        """ops.gated_experts, where the tensors of each expert's matrix are stacked on a first axis."""
        ...


@runtime_checkable
class NamesModules(Protocol):
    """A choice of methods by name, which may name what a model has not."""

    def __call__(self, path: str) -> LinearMethod:
        """The method of the module of this path in the checkpoint."""
        ...

    def why_not(self) -> str | None:
        """What is named and was not among the paths; asked when all of a model's were."""
        ...


@runtime_checkable
class TakesRounded(LinearMethod, Protocol):
    """A format whose activations may be rounded by what makes them."""

    def rounded_to(self, dtype: torch.dtype) -> torch.dtype | None:
        """What activations of `dtype` are rounded to, each token with a scale of its own; None: they are not."""
        ...

    def multiply_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Tensor:
        """As multiply."""
        ...

    def gated_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Tensor:
        """As gated."""
        ...

    def gated_to_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Rounded | None:
        """As gated, rounded for another product of this format; None where that is no faster."""
        ...


@runtime_checkable
class LeavesParts(LinearMethod, Protocol):
    """A format whose products may be left in parts, for whoever reads them to add up."""

    def in_parts(self, tensors: Tensors, x: Tensor | Rounded) -> Tensor | None:
        """Parts [n, tokens, outputs] float32 of `multiply` without a bias, or None where that is no faster."""
        ...
