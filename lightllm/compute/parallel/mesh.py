"""Which ranks share what."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _unchanged(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Group:
    """Ranks that work on one thing together. Every rank of the group must make the same calls in the same order.

    The callables may overwrite their argument; use what they return.
    """

    rank: int = 0
    ranks: int = 1
    sum: Callable[[Tensor], Tensor] = _unchanged
    gather_last: Callable[[Tensor], Tensor] = _unchanged  # [..., n] -> [..., ranks * n], in order of rank
    broadcast: Callable[[Tensor], Tensor] = _unchanged  # rank 0's tensor, on every rank


@dataclass(frozen=True)
class Mesh:
    """The groups this rank belongs to. A group of one rank means that kind of parallelism is off.

    tensor: shares of every matrix. expert: whole experts. data: replicas of attention. pipeline: runs of layers.
    """

    tensor: Group = Group()
    expert: Group = Group()
    data: Group = Group()
    pipeline: Group = Group()
