"""Large tensors of which much may never be used."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros; on a CPU, pages of memory that nobody touches are never taken."""
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    untouched = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(untouched).view(dtype).view(*shape)
