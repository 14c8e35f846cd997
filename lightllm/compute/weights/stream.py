"""From a checkpoint into memory that is there already: several threads, no copy of a weight on the host.

To a CUDA device each thread copies pieces into pinned buffers of its own, from which the device fetches them while the
thread fills the next one. Files are mapped, so what is read is what this rank's windows hold and nothing more.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from threading import local

import numpy as np
import torch
from torch import Tensor

from lightllm.compute.weights.checkpoint import Checkpoint
from lightllm.compute.weights.weight import Part, Weight

READERS = 8  # threads; each copies some GB/s out of the page cache
PIECE_BYTES = 32 << 20  # of what is stored
BUFFERS = 2  # pinned ones of a thread: one is filled while the device fetches the other

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what numpy knows, by bytes


@dataclass(frozen=True)
class Destination:
    """A weight, and the tensor of its shape that it goes to."""

    weight: Weight
    tensor: Tensor


def stream(
    checkpoint: Checkpoint,
    destinations: Sequence[Destination],
    device: torch.device,
    progress: Callable[[int], None],
) -> None:
    """Fills all destinations, converting to their types. Returns when all is there.

    progress(bytes of destinations filled) is called by this thread, before the first and then now and then. Raises what
    reading raises.
    """
    copiers, done = local(), 0
    progress(done)

    @torch.inference_mode()
    def read(weight: Weight, part: Part, target: Tensor) -> int:
        source = checkpoint.read(part, weight)
        convert = part.conversion.function if part.conversion is not None else None
        if device.type == "cuda" and source.device.type == "cpu":
            if not hasattr(copiers, "mine"):
                copiers.mine = PinnedCopier(device)
            copiers.mine.copy(target, source, convert)
        else:
            target.copy_(source if convert is None else convert(source))
        return target.nbytes

    with ThreadPoolExecutor(READERS) as readers:
        futures = []
        for destination in destinations:
            for part, target in _parts(destination):
                futures += [readers.submit(read, destination.weight, *piece) for piece in _pieces(part, target)]
        try:
            for future in as_completed(futures):
                done += future.result()
                progress(done)
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    progress(sum(destination.tensor.nbytes for destination in destinations))


def _parts(destination: Destination) -> Iterator[tuple[Part, Tensor]]:
    """The parts of a weight, and where each goes. Clears what they leave."""
    weight, tensor, at = destination.weight, destination.tensor, 0
    for part in weight.parts:
        count = part.kept_shape[weight.axis]
        yield part, tensor.narrow(weight.axis, at, count)
        at += count
    tensor.narrow(weight.axis, at, tensor.shape[weight.axis] - at).zero_()


def _pieces(part: Part, target: Tensor) -> Iterator[tuple[Part, Tensor]]:
    """A part cut along its first axis, so that several threads work on a large one."""
    shape, conversion = part.local_shape, part.conversion
    if not math.prod(shape) or (conversion is not None and conversion.step is None):
        yield part, target
        return
    step, kept, axis, size = 1, 1, 0, target.nbytes
    if conversion is not None and conversion.step is not None:
        step, kept, axis = conversion.step, conversion.kept, conversion.axis
        size = math.prod(shape) * torch.float32.itemsize  # what most conversions compute in
    count = max(PIECE_BYTES * shape[0] // max(size, 1) // step, 1) * step
    start, stop, _ = part.window[0].indices(part.shape[0])
    for first in range(start, stop, count):
        last, at = min(first + count, stop), (first - start) // step * kept
        piece = replace(part, window=(slice(first, last), *part.window[1:]))
        yield piece, target.narrow(axis, at, min(count // step * kept, target.shape[axis] - at))


class PinnedCopier:
    """Copies host tensors to one CUDA device, a thread's. The copies run on a stream of its own."""

    def __init__(self, device: torch.device):
        torch.cuda.set_device(device)  # of this thread: a new one has the first device, and would take memory there
        self._stream, self._turn = torch.cuda.Stream(device), 0
        self._buffers: list[Tensor] = []
        self._fetched = [torch.cuda.Event() for _ in range(BUFFERS)]

    def copy(self, target: Tensor, source: Tensor, convert: Callable[[Tensor], Tensor] | None = None) -> None:
        """Returns when `source` may be forgotten; `target` is complete once the device has caught up."""
        turn = self._turn
        self._turn = (turn + 1) % BUFFERS
        self._fetched[turn].synchronize()
        pinned = self._buffer(turn, source.nbytes)[: source.nbytes].view(source.dtype).view(source.shape)
        # By numpy, which copies in this thread; torch would start more of them for each of these.
        bits = BITS[source.dtype.itemsize]
        np.copyto(pinned.view(bits).numpy(), source.view(bits).numpy())
        with torch.cuda.stream(self._stream):
            if convert is None and source.dtype == target.dtype and target.is_contiguous():
                target.copy_(pinned, non_blocking=True)
            else:
                fetched = pinned.to(target.device, non_blocking=True)
                target.copy_(fetched if convert is None else convert(fetched))
            self._fetched[turn].record(self._stream)

    def _buffer(self, turn: int, size: int) -> Tensor:
        """Pinned memory of at least `size` bytes. A piece may be larger than PIECE_BYTES if it is stored wider."""
        while len(self._buffers) < BUFFERS:
            self._buffers.append(torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True))
        if len(self._buffers[turn]) < size:
            self._buffers[turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return self._buffers[turn]
