"""Which run of an axis a rank computes."""

from dataclasses import dataclass

from lightllm.base.errors import ConfigError
from lightllm.compute.parallel.mesh import Group


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
        possible = ", ".join(str(ranks) for ranks in range(1, units + 1) if units % ranks == 0)
        raise ConfigError(f"--tp={group.ranks} does not divide the {units} units of {what}; possible: {possible}")
    start = group.rank * units // group.ranks * unit
    return Share(size, start, start + max(size // group.ranks, unit))


def padded(size: int, group: Group) -> Share:
    """This rank's share when each holds ceil(size / ranks), the last ones less or nothing."""
    count = -(-size // group.ranks)
    start = min(group.rank * count, size)
    return Share(size, start, min(start + count, size))
