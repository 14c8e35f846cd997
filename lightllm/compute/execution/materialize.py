"""Turn a skeleton model (sizes only) into tensors on this rank: the one place that knows rank, quantization, dtype
and device together."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute import kernels
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.layers.layer import Placeable, Site
from lightllm.compute.ops.op import Facts
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.method import LinearMethod, NamesModules
from lightllm.compute.weights.checkpoint import Checkpoint
from lightllm.compute.weights.stream import Destination, stream
from lightllm.compute.weights.weight import Computed, Declared, Stack, Weight, members


@dataclass(frozen=True)
class Placed:
    """A layer, and the tensors that it wants on this rank."""

    layer: Placeable
    declared: Mapping[str, Declared]


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

    progress(bytes done, bytes in all) is called as weights come in. Raises ConfigError if the checkpoint does not fit
    the model, naming the tensors, if a recipe names what the model has not, or if the model cannot be divided so.
    allow_reference: see kernels.load.
    """
    whole = place(model, mesh=Mesh(), dtype=dtype, method_for=method_for)
    if isinstance(method_for, NamesModules) and (reason := method_for.why_not()):
        raise ConfigError(reason)
    checkpoint.check([one for placed in whole for one in _weights(placed)], model.unused)
    kernels.load(Facts(device, dtype), allow_reference=allow_reference)
    here = place(model, mesh=mesh, dtype=dtype, method_for=method_for)
    tensors = [allocate(placed, dtype=dtype, device=device) for placed in here]
    total = sum(math.prod(weight.shape) * (weight.dtype or dtype).itemsize for one in here for weight in _weights(one))
    destinations = [
        Destination(weight, tensor)
        for placed, made in zip(here, tensors, strict=True)
        for name, declared in placed.declared.items()
        for weight, tensor in _each(declared, made[name])
    ]
    stream(checkpoint, destinations, device, lambda done: progress(done, total) if progress is not None else None)
    # A layer may keep its tensors in another form: nothing else shall hold what it drops.
    destinations.clear()
    for placed in here:
        placed.layer.fill(tensors.pop(0))
    return total


def place(
    model: CausalLM, *, mesh: Mesh, dtype: torch.dtype, method_for: Callable[[str], LinearMethod]
) -> list[Placed]:
    """Decides which share of each layer this rank has."""
    return [
        Placed(layer, layer.place(Site(model.stored_path(path), mesh, dtype, method_for, model.names)))
        for path, layer in model.named_modules()
        if isinstance(layer, Placeable)
    ]


def allocate(placed: Placed, *, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Memory for the tensors of a layer; those that need no checkpoint are computed."""
    return {name: _memory(declared, dtype, device) for name, declared in placed.declared.items()}


def _memory(declared: Declared, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(declared, Computed):
        return declared.compute().to(device)
    if isinstance(declared, Stack):
        first = declared.members[0]
        return torch.empty(len(declared.members), *first.shape, dtype=first.dtype or dtype, device=device)
    return torch.empty(declared.shape, dtype=declared.dtype or dtype, device=device)


def _weights(placed: Placed) -> Iterator[Weight]:
    """All that is read from the checkpoint for a layer."""
    for declared in placed.declared.values():
        yield from members(declared)


def _each(declared: Declared, tensor: Tensor) -> Iterator[tuple[Weight, Tensor]]:
    """What is read from the checkpoint, and where to."""
    if isinstance(declared, Stack):
        yield from zip(declared.members, tensor, strict=True)
    elif isinstance(declared, Weight):
        yield declared, tensor
