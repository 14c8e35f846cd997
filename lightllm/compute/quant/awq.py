"""4-bit weights with zero points, as AutoAWQ packs them for its GEMM kernels (`qweight`, `qzeros`, `scales`)."""

from dataclasses import dataclass
from functools import partial

from lightllm.compute.quant.int4 import Int4, joined
from lightllm.compute.weights.share import Share, block_of, blocks
from lightllm.compute.weights.weight import Computed, Declared, Matrix, Part, Run


@dataclass(frozen=True)
class Awq(Int4):
    """Tensors lie inputs first, outputs last."""

    name: str = "awq"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs, group = matrix.inputs, self.group_size(matrix.inputs)
        groups = blocks(inputs, group)
        weights, zeros, scales = [], [], []
        for run in matrix.outputs:
            packed = self.packed(run)
            weights.append(_part(run, "qweight", inputs, packed))
            zeros.append(_part(run, "qzeros", groups, packed))
            scales.append(_part(run, "scales", groups, run.share))
        return joined(weights, zeros, scales) | {"group_of": Computed(partial(block_of, [inputs], group))}


def _part(run: Run, suffix: str, first: Share, last: Share) -> Part:
    return Part(f"{run.module}.{suffix}", (first.size, last.size), (first.window, last.window))
