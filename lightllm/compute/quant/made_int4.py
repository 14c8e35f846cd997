"""4-bit weights with zero points that are made of floats as these are read: nearest numbers, group by group."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute.ops.awq import PACKED
from lightllm.compute.quant.int4 import Int4, joined, packed_as_awq
from lightllm.compute.weights.share import Share, block_of, blocks
from lightllm.compute.weights.weight import Computed, Conversion, Declared, Matrix, Part, Run

LARGEST = 15
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True)
class MadeInt4(Int4):
    """Groups are those of the whole matrix, so that a rank's share is what it is of the whole."""

    name: str = "int4"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs, group = matrix.inputs, self.group_size(matrix.inputs)
        groups = blocks(inputs, group)
        skipped = inputs.start - groups.start * group
        read = slice(groups.start * group, groups.stop * group)

        def number(rows: Tensor) -> Tensor:
            numbers = quantized(rows, group)[0].flatten(1)[:, skipped : skipped + inputs.count]
            return packed_as_awq(_eights(numbers.T))

        def zero(rows: Tensor) -> Tensor:
            return packed_as_awq(_eights(quantized(rows, group)[1].T))

        def scale(rows: Tensor) -> Tensor:
            return _eights(quantized(rows, group)[2].T)

        def parts(convert: Callable[[Tensor], Tensor], lines: int, packed: int) -> list[Part]:
            return [self._part(run, inputs, read, convert, lines, packed, matrix) for run in matrix.outputs]

        weights, zeros = parts(number, inputs.count, PACKED), parts(zero, groups.count, PACKED)
        made = joined(weights, zeros, parts(scale, groups.count, 1), dummy=None)
        return made | {"group_of": Computed(partial(block_of, [inputs], group))}

    def _part(
        self,
        run: Run,
        inputs: Share,
        read: slice,
        convert: Callable[[Tensor], Tensor],
        lines: int,
        packed: int,
        matrix: Matrix,
    ) -> Part:
        outputs = run.share
        if outputs.start % PACKED or (outputs.count % PACKED and len(matrix.outputs) > 1):
            raise ConfigError(
                f"{run.module}: int4 packs {PACKED} outputs in one number, which ranks cannot share; this rank would "
                f"hold outputs {outputs.start} to {outputs.stop} of {outputs.size}; use a smaller --tp"
            )
        kept = -(-outputs.count // PACKED) * (PACKED // packed)
        conversion = Conversion(convert, (lines, kept), step=PACKED, kept=PACKED // packed, axis=1)
        return Part(f"{run.module}.weight", (outputs.size, inputs.size), (outputs.window, read), conversion)


def quantized(rows: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """rows [outputs, inputs] -> numbers [outputs, groups, group], zero points and scales [outputs, groups].

    Each group's numbers reach from its smallest weight, or 0, to its largest. Of the last group what is missing is 0.
    """
    groups = torch.nn.functional.pad(rows.float(), (0, -rows.shape[1] % group)).unflatten(1, (-1, group))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / LARGEST).clamp(min=SMALLEST_SCALE)
    zero = (-low / scale).round()
    numbers = (groups / scale.unsqueeze(-1)).round() + zero.unsqueeze(-1)
    return numbers.clamp(0, LARGEST), zero, scale


def _eights(x: Tensor) -> Tensor:
    """x [n, outputs] with zeros up to a multiple of PACKED outputs."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % PACKED))
