"""Turn a skeleton model (sizes only) into tensors on this rank: the one place that knows rank, quantization, dtype
and device together."""

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lightllm.compute import kernels
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.layers.layer import Placeable, Site
from lightllm.compute.ops.op import Facts
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.weights.checkpoint import Checkpoint
from lightllm.compute.weights.weight import Computed, Declared, Stack, Weight, members

READERS = 4  # threads that read layers


def materialize(
    model: CausalLM,
    checkpoint: Checkpoint,
    *,
    mesh: Mesh,
    dtype: torch.dtype,
    device: torch.device,
    method_for: Callable[[str], LinearMethod],
    progress: Callable[[int, int], None] | None = None,
    allow_reference: bool = True,
) -> int:
    """Load every declared tensor and choose what computes each op. Returns the bytes of weights on this rank.

    progress(bytes done, bytes in all) is called as layers come in. Raises ConfigError if the checkpoint does not fit
    the model, naming the tensors, or if the model cannot be divided so. allow_reference: see kernels.load.
    """
    checkpoint.check(_whole(model, dtype, method_for), model.unused)
    kernels.load(Facts(device, dtype), allow_reference=allow_reference)
    placed = [(layer, layer.place(Site(path, mesh, dtype, method_for))) for path, layer in _placeables(model)]
    total = sum(_bytes(declared, dtype) for _, tensors in placed for declared in tensors.values())
    done = 0

    def read(tensors: Mapping[str, Declared]) -> dict[str, Tensor]:
        return {name: _tensor(declared, checkpoint, dtype, device) for name, declared in tensors.items()}

    with ThreadPoolExecutor(READERS) as readers:
        loaded = readers.map(read, [tensors for _, tensors in placed])
        for (layer, declared), tensors in zip(placed, loaded, strict=True):
            layer.fill(tensors)
            done += sum(_bytes(one, dtype) for one in declared.values())
            if progress is not None:
                progress(done, total)
    return total


def _placeables(model: CausalLM) -> Iterator[tuple[str, Placeable]]:
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, Placeable))


def _whole(model: CausalLM, dtype: torch.dtype, method_for: Callable[[str], LinearMethod]) -> Iterator[Weight]:
    """Everything the model would load on a single rank: all that the checkpoint should hold."""
    for path, layer in _placeables(model):
        for declared in layer.place(Site(path, Mesh(), dtype, method_for)).values():
            yield from members(declared)


def _bytes(declared: Declared, dtype: torch.dtype) -> int:
    return sum(math.prod(weight.shape) * (weight.dtype or dtype).itemsize for weight in members(declared))


def _tensor(declared: Declared, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(declared, Computed):
        return declared.compute().to(device)
    if isinstance(declared, Stack):
        first = declared.members[0]
        stacked = torch.empty(len(declared.members), *first.shape, dtype=first.dtype or dtype, device=device)
        for tensor, weight in zip(stacked, declared.members, strict=True):
            _read(weight, checkpoint, tensor)
        return stacked
    tensor = torch.empty(declared.shape, dtype=declared.dtype or dtype, device=device)
    _read(declared, checkpoint, tensor)
    return tensor


def _read(weight: Weight, checkpoint: Checkpoint, tensor: Tensor) -> None:
    """Copies the weight's parts into `tensor`, converting on the way, and clears what they leave."""
    at = 0
    for part in weight.parts:
        count = part.local_shape[weight.axis]
        tensor.narrow(weight.axis, at, count).copy_(checkpoint.read(part, weight))
        at += count
    tensor.narrow(weight.axis, at, tensor.shape[weight.axis] - at).zero_()
