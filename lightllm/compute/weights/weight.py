"""How a layer declares its tensors: where the checkpoint keeps them, and which share of them this rank holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lightllm.compute.weights.share import Share


@dataclass(frozen=True)
class Conversion:
    """What is kept of a window: `function` of it, which has `shape`.

    stored: its dtype in the checkpoint, None: any float. step: so many rows of the window, and any multiple, may be
    converted by themselves, and make `kept` numbers along `axis` of the result; None: the window is converted whole.
    """

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    stored: torch.dtype | None = None
    step: int | None = None
    kept: int = 1
    axis: int = 0


@dataclass(frozen=True)
class Part:
    """A window of the checkpoint's tensor `name`, whose whole shape is `shape`; kept as it is, or converted.

    other_name: what some tools call the tensor.
    """

    name: str
    shape: tuple[int, ...]
    window: tuple[slice, ...]
    conversion: Conversion | None = None
    other_name: str | None = None

    @property
    def kept_shape(self) -> tuple[int, ...]:
        return self.local_shape if self.conversion is None else self.conversion.shape

    @property
    def local_shape(self) -> tuple[int, ...]:
        return tuple(len(range(*axis.indices(size))) for axis, size in zip(self.window, self.shape, strict=True))


@dataclass(frozen=True)
class Weight:
    """One tensor of this rank: `parts` laid one after another along `axis`, then zeros up to `size` if that is given.

    dtype None: the dtype the model computes in. dummy: the constant that stands in for it in a model without a
    checkpoint, None for random numbers.
    """

    parts: tuple[Part, ...]
    axis: int = 0
    size: int | None = None
    dtype: torch.dtype | None = None
    dummy: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        shapes = [list(part.kept_shape) for part in self.parts]
        first = shapes[0]
        first[self.axis] = self.size or sum(shape[self.axis] for shape in shapes)
        return tuple(first)


@dataclass(frozen=True)
class Stack:
    """Weights of one shape, stacked on a new first axis: the experts of a rank."""

    members: tuple[Weight, ...]


@dataclass(frozen=True)
class Computed:
    """A tensor that comes from the configuration alone."""

    compute: Callable[[], Tensor]


Declared: TypeAlias = Weight | Stack | Computed


@dataclass(frozen=True)
class Run:
    """This rank's share of outputs that the checkpoint keeps in a module of their own."""

    module: str
    share: Share


@dataclass(frozen=True)
class Matrix:
    """This rank's part of y = W x: runs of outputs one after another, and a share of the inputs."""

    outputs: tuple[Run, ...]
    inputs: Share


def vector(name: str, size: int, *, dtype: torch.dtype | None = None, dummy: float | None = None) -> Weight:
    """A tensor [size] that every rank holds whole."""
    return Weight((Part(name, (size,), (slice(0, size),)),), dtype=dtype, dummy=dummy)


def members(declared: Declared) -> Iterator[Weight]:
    """The weights that are read from the checkpoint for this declaration."""
    if isinstance(declared, Stack):
        yield from declared.members
    elif isinstance(declared, Weight):
        yield declared
