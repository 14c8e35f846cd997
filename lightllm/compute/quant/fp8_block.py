"""8-bit float weights with a scale for each tile, as stored or made of floats. Source: arXiv:2412.19437 section 3.3.

A share need not fall on tile edges: the tiles it touches are read whole, and each row and column knows its own.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.ops.fp8_block import dequantized, quantized
from lightllm.compute.quant.method import Routed, Tensors
from lightllm.compute.weights.share import Share, block_of, blocks
from lightllm.compute.weights.weight import Computed, Conversion, Declared, Matrix, Part, Run, Weight


@dataclass(frozen=True)
class Fp8Block:
    """tile: rows and columns that share a scale. scale: its name; None: weights are floats, and tiles made of them."""

    tile: tuple[int, int]
    name: str = "fp8_block"
    scale: str | None = "weight_scale_inv"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        parts = [
            self._made(run, matrix.inputs) if self.scale is None else self._stored(run, matrix.inputs, self.scale)
            for run in matrix.outputs
        ]
        weights, scales = zip(*parts, strict=True)
        outputs = [run.share for run in matrix.outputs]
        return {
            "weight": Weight(weights, dtype=torch.float8_e4m3fn),
            "scale": Weight(scales, dtype=torch.float32, dummy=None if self.scale is None else 1.0),
            "row_tile": Computed(partial(block_of, outputs, self.tile[0])),
            "column_tile": Computed(partial(block_of, [matrix.inputs], self.tile[1])),
        }

    def _stored(self, run: Run, inputs: Share, scale: str) -> tuple[Part, Part]:
        rows, columns = blocks(run.share, self.tile[0]), blocks(inputs, self.tile[1])
        weight = Part(f"{run.module}.weight", (run.share.size, inputs.size), (run.share.window, inputs.window))
        return weight, Part(f"{run.module}.{scale}", (rows.size, columns.size), (rows.window, columns.window))

    def _made(self, run: Run, inputs: Share) -> tuple[Part, Part]:
        """The weight and the scales, both of the whole tiles that this share touches."""
        outputs, (height, width) = run.share, self.tile
        rows, columns = blocks(outputs, height), blocks(inputs, width)
        top, left = rows.start * height, columns.start * width
        window = slice(top, rows.stop * height), slice(left, columns.stop * width)
        is_aligned = outputs.start == top and (outputs.stop % height == 0 or outputs.stop == outputs.size)
        crop = slice(outputs.start - top, None if is_aligned else outputs.stop - top)
        crop_columns = slice(inputs.start - left, inputs.stop - left)

        def weight(part: Tensor) -> Tensor:
            return quantized(part, self.tile)[0][crop, crop_columns]

        step = height if is_aligned else None
        to_weight = Conversion(weight, (outputs.count, inputs.count), step=step, kept=height)
        to_scale = Conversion(lambda part: quantized(part, self.tile)[1], (rows.count, columns.count), step=step)
        name, shape = f"{run.module}.weight", (outputs.size, inputs.size)
        return Part(name, shape, window, to_weight), Part(name, shape, window, to_scale)

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        return tensors

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear_fp8_block(x, *_of(tensors), bias)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.silu_and_mul(self.multiply(tensors, x, bias))

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        return ops.gated_experts_fp8_block(x, *_of(gate_up), *_of(down), *routed, beside)


def _of(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tensors["weight"], tensors["scale"], tensors["row_tile"], tensors["column_tile"]
