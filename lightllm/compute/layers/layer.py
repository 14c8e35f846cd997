"""What materializing asks of a layer that has tensors of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.weights.weight import Declared


@dataclass(frozen=True)
class Site:
    """Where a layer stands: its path in the checkpoint, on which rank, and what it computes in.

    names: what the checkpoint calls parts of the model that are called otherwise here.
    """

    path: str
    mesh: Mesh
    dtype: torch.dtype
    method_for: Callable[[str], LinearMethod]
    names: Mapping[str, str]

    def beside(self, name: str) -> str:
        """The checkpoint's path of a module with the same parent."""
        return ".".join(filter(None, [self.path.rpartition(".")[0], self.names.get(name, name)]))


@runtime_checkable
class Placeable(Protocol):
    """A layer with tensors of its own."""

    def place(self, site: Site) -> Mapping[str, Declared]:
        """Decide which share this rank computes and how; returns the tensors to load, by names of the layer's own."""
        ...

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors that `place` declared."""
        ...
