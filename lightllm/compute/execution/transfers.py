"""Between host and device. On a CPU nothing is copied; on CUDA only `Download.arrays` waits."""

import numpy as np
import torch
from torch import Tensor


class Upload:
    """Host arrays as tensors on the device; integers become int64. What is uploaded must not change any more."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64, copy=False) if array.dtype.kind in "iu" else array)
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def together(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """Several integer arrays [n] in one copy, each from a multiple of 16 bytes on."""
        starts = np.cumsum([0, *(len(array) + len(array) % 2 for array in arrays)]).tolist()
        packed = np.zeros(starts[-1], np.int64)
        for start, array in zip(starts, arrays, strict=False):
            packed[start : start + len(array)] = array
        tensor = self(packed)
        return tuple(tensor[start : start + len(array)] for start, array in zip(starts, arrays, strict=False))

    def into(self, target: Tensor, array: np.ndarray) -> None:
        """Copies an array over a tensor of its shape, after all that was launched before."""
        source = torch.from_numpy(array)
        target.copy_(source.pin_memory() if self.device.type == "cuda" else source, non_blocking=True)


class Download:
    """Tensors on their way to the host."""

    def __init__(self, tensors: tuple[Tensor, ...], stream: torch.cuda.Stream | None):
        """stream: what copies on CUDA, so that the next step's kernels do not queue behind the copies."""
        self._event = None
        if stream is None:
            self._copies = list(tensors)
            return
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
            self._event = torch.cuda.Event()
            self._event.record(stream)
        for tensor in tensors:
            tensor.record_stream(stream)  # its memory is not used again before it is copied

    def is_there(self) -> bool:
        return self._event is None or self._event.query()

    def arrays(self) -> list[np.ndarray]:
        """The tensors on the host, once the device has computed them."""
        if self._event is not None:
            self._event.synchronize()
        return [copy.numpy() for copy in self._copies]
