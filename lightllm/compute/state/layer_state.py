"""What a layer remembers of each token, as data: the scheduler and the pools see nothing else of an architecture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenPart:
    """One tensor a token, of `shape` on this rank. heads_axis: the axis of `shape` that ranks divide, None if none."""

    shape: tuple[int, ...]
    heads_axis: int | None


@dataclass(frozen=True)
class LayerState:
    """The parts that one layer keeps for every token, by name."""

    parts: Mapping[str, TokenPart]

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        return sum(math.prod(part.shape) for part in self.parts.values()) * dtype.itemsize


@runtime_checkable
class Stateful(Protocol):
    """A layer that remembers."""

    def state(self) -> LayerState:
        """What it keeps; known once the layer is placed."""
        ...

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Use these tensors [slots + 1, *part's shape] from now on."""
        ...
