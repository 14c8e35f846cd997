"""Between host and device. On a CPU nothing is copied; on CUDA nothing waits but `fetch`."""

import numpy as np
import torch
from torch import Tensor


class Upload:
    """Host arrays as tensors on the device; integers become int64. What is uploaded must not change any more."""

    def __init__(self, device: torch.device):
        self._device = device

    def __call__(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array.astype(np.int64, copy=False) if array.dtype.kind in "iu" else array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def together(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """Several integer arrays [n] in one copy."""
        return self(np.concatenate(arrays)).split([len(array) for array in arrays])


def fetch(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors as host arrays, once the device has computed them."""
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    if tensors[0].is_cuda:
        torch.cuda.current_stream().synchronize()
    return [copy.numpy() for copy in copies]
