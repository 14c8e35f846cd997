"""Random weights of the right shapes, so that a model can be measured without a checkpoint."""

import re
import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from lightllm.compute.weights.weight import Part, Weight

DEVIATION = 0.02


class Dummy:
    """Every tensor exists: N(0, 0.02), random bits for packed integers, or the constant that the weight names.

    What two ranks both hold is the same on both: the seed comes from the tensor's name and the window read. Made on
    the device, where it is quickest; so a GPU's weights are not those of a CPU.
    """

    def __init__(self, device: torch.device | None = None):
        self._device = device or torch.device("cpu")

    def check(self, wanted: Iterable[Weight], ignored: re.Pattern[str] | None) -> None:
        pass

    def read(self, part: Part, weight: Weight) -> Tensor:
        if weight.dummy is not None:
            return torch.full(part.local_shape, weight.dummy, device=self._device)
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(f"{part.name} {part.window}".encode()))
        make = {"generator": generator, "device": self._device}
        dtype = weight.dtype if part.conversion is None else part.conversion.stored
        if dtype is not None and not dtype.is_floating_point:
            bounds = torch.iinfo(dtype)
            return torch.randint(bounds.min, bounds.max, part.local_shape, dtype=dtype, **make)
        return torch.randn(part.local_shape, **make).mul_(DEVIATION)
