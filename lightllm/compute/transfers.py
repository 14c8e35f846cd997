"""Between host and device. On a CPU nothing is copied; on CUDA only `Download.arrays` waits."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGN = 16  # bytes: kernels are compiled once more for addresses that are not multiples of these
_DTYPES = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64}


class Upload:
    """Host arrays as tensors on the device; integers become int64. What is uploaded must not change any more."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, array: np.ndarray) -> Tensor:
        return self._copied(array.astype(np.int64, copy=False) if array.dtype.kind in "iu" else array)

    def together(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """Several arrays [n] of int32 or int64 in one copy, each as it is, from a multiple of 16 bytes on."""
        packed, starts = pack(arrays)
        tensor = self._copied(packed)
        return tuple(
            tensor[start : start + array.nbytes].view(_DTYPES[array.dtype])
            for start, array in zip(starts, arrays, strict=True)
        )

    def into(self, target: Tensor, array: np.ndarray) -> None:
        """Copies an array over a tensor of its shape, after all that was launched before."""
        source = torch.from_numpy(array)
        target.copy_(source.pin_memory() if self.device.type == "cuda" else source, non_blocking=True)

    def _copied(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)


def pack(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Arrays [n] one after another as bytes, and where each begins."""
    *starts, end = starts_in_one([array.nbytes for array in arrays])
    packed = np.zeros(max(end, _ALIGN), np.uint8)  # torch cannot view nothing as another type
    for start, array in zip(starts, arrays, strict=True):
        packed[start : start + array.nbytes].view(array.dtype)[:] = array
    return packed, starts


def starts_in_one(sizes: Sequence[int]) -> list[int]:
    """Where parts of so many bytes begin that lie one after another, each aligned, and where the last one ends."""
    return [0, *itertools.accumulate(-(-size // _ALIGN) * _ALIGN for size in sizes)]


class Download:
    """Tensors on their way to the host, copied before what is launched next: another stream for a few bytes would cost
    the host more than it saves the device, and what a graph left would be there only until the graph is replayed."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device):
        self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
        self._event = None
        if device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record()

    def is_there(self) -> bool:
        return self._event is None or self._event.query()

    def arrays(self) -> list[np.ndarray]:
        """The tensors on the host, once the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        return [copy.numpy() for copy in self._copies]
