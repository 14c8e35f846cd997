"""4-bit weights as compressed-tensors packs them: eight inputs a number (`weight_packed`, `weight_scale`)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightllm.compute.ops.awq import PACKED
from lightllm.compute.quant.gptq import order_of
from lightllm.compute.quant.int4 import Int4, joined, packed_as_awq, unpacked_in_order
from lightllm.compute.weights.share import Share, block_of, blocks, whole
from lightllm.compute.weights.weight import Computed, Conversion, Declared, Matrix, Part, Run

MIDDLE = 8  # the zero point of symmetric weights


@dataclass(frozen=True)
class Packed(Int4):
    """symmetric: there are no zero points. order: `weight_g_idx` says which group an input is of."""

    symmetric: bool = True
    name: str = "pack-quantized"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs, group = matrix.inputs, self.group_size(matrix.inputs)
        groups = whole(blocks(inputs, group).size) if self.order else blocks(inputs, group)
        weights = [self._weight(run, inputs) for run in matrix.outputs]
        zeros = [self._zeros(run, groups) for run in matrix.outputs]
        scales = [_turned(run, "weight_scale", groups) for run in matrix.outputs]
        group_of = Computed(partial(block_of, [inputs], group))
        if self.order:
            group_of = order_of(matrix, "weight_g_idx", groups.size)
        return joined(weights, zeros, scales) | {"group_of": group_of}

    def _weight(self, run: Run, inputs: Share) -> Part:
        words, packed = blocks(inputs, PACKED), self.packed(run)
        skipped = inputs.start - words.start * PACKED

        def convert(stored: Tensor) -> Tensor:
            return packed_as_awq(unpacked_in_order(stored)[:, skipped : skipped + inputs.count].T)

        kept = inputs.count, packed.count
        conversion = Conversion(convert, kept, torch.int32, step=PACKED, axis=1)
        window = run.share.window, words.window
        return Part(f"{run.module}.weight_packed", (run.share.size, words.size), window, conversion)

    def _zeros(self, run: Run, groups: Share) -> Part:
        packed = self.packed(run)
        kept = groups.count, packed.count
        if self.symmetric:
            # Nothing is stored, so they are made of something that has their shape.
            scales = _turned(run, "weight_scale", groups)
            assert scales.conversion is not None
            conversion = Conversion(lambda scale: packed_as_awq(torch.full_like(scale.T, MIDDLE)), kept)
            return Part(scales.name, scales.shape, scales.window, conversion)

        def convert(stored: Tensor) -> Tensor:
            return packed_as_awq(unpacked_in_order(stored.T))

        shape, window = (packed.size, groups.size), (packed.window, groups.window)
        return Part(f"{run.module}.weight_zero_point", shape, window, Conversion(convert, kept, torch.int32))


def _turned(run: Run, suffix: str, groups: Share) -> Part:
    """A tensor that is stored outputs first."""
    shape, window = (run.share.size, groups.size), (run.share.window, groups.window)
    conversion = Conversion(lambda stored: stored.T, (groups.count, run.share.count), step=1, axis=1)
    return Part(f"{run.module}.{suffix}", shape, window, conversion)
