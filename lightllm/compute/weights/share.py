"""Which run of an axis a rank computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute.parallel.mesh import Group

MOST_RANKS = 64  # how far an error looks for numbers of ranks that would do


@dataclass(frozen=True)
class Share:
    """[start, stop) of an axis of `size`."""

    size: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def window(self) -> slice:
        return slice(self.start, self.stop)


def whole(size: int) -> Share:
    """Everything: what each rank holds of an axis that is not divided."""
    return Share(size, 0, size)


def divided(size: int, group: Group, *, unit: int = 1, copies: bool = False, what: str) -> Share:
    """This rank's equal share, in whole units. With `copies`, several ranks may hold the same unit where there are few.

    Raises ConfigError naming `what` if the units do not come out even.
    """
    units = size // unit
    if units % group.ranks and not (copies and group.ranks % units == 0):
        possible = ", ".join(str(ranks) for ranks in range(1, MOST_RANKS + 1) if units % ranks == 0)
        kind = "numbers" if unit == 1 else "heads"
        raise ConfigError(f"--tp={group.ranks} does not divide the {units} {kind} of {what}; use {possible}")
    start = group.rank * units // group.ranks * unit
    return Share(size, start, start + max(size // group.ranks, unit))


def padded(size: int, group: Group) -> Share:
    """This rank's share when each holds ceil(size / ranks), the last ones less or nothing."""
    count = -(-size // group.ranks)
    start = min(group.rank * count, size)
    return Share(size, start, min(start + count, size))


def blocks(share: Share, size: int) -> Share:
    """The blocks of `size` that a share touches, of all the blocks of its axis."""
    return Share(-(-share.size // size), share.start // size, -(-share.stop // size))


def block_of(shares: Sequence[Share], size: int) -> Tensor:
    """The block of each element, where shares lie end to end and the blocks they touch do so too. [elements] int64"""
    parts, first = [], 0
    for share in shares:
        touched = blocks(share, size)
        parts.append(torch.arange(share.start, share.stop) // size - touched.start + first)
        first += touched.count
    return torch.cat(parts)
