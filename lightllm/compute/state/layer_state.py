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
class Format:
    """How a pool keeps numbers: of `dtype`, `packed` of them in one; if `scaled`, the last axis has a float32 scale."""

    dtype: torch.dtype
    packed: int = 1
    scaled: bool = False


@dataclass(frozen=True)
class LayerState:
    """The parts that one layer keeps for every token, by name."""

    parts: Mapping[str, TokenPart]

    def bytes_per_token(self, form: Format) -> int:
        numbers = sum(math.prod(part.shape) for part in self.parts.values())
        scales = sum(math.prod(part.shape[:-1]) for part in self.parts.values()) if form.scaled else 0
        return numbers // form.packed * form.dtype.itemsize + scales * torch.float32.itemsize


@runtime_checkable
class Stateful(Protocol):
    """A layer that remembers."""

    def state(self) -> LayerState:
        """What it keeps; known once the layer is placed."""
        ...

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        """Use these tensors [slots + 1, *part's shape] from now on; "NAME_scale" are the scales of part NAME."""
        ...
