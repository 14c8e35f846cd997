"""8-bit float weights with a scale for each tile (`weight_scale_inv`). Source: arXiv:2412.19437 section 3.3.

A share need not fall on tile edges: the tiles it touches are read whole, and each row and column knows its own.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.ops.fp8_block import dequantized
from lightllm.compute.quant.method import Tensors
from lightllm.compute.weights.share import block_of, blocks
from lightllm.compute.weights.weight import Computed, Declared, Matrix, Part, Weight


@dataclass(frozen=True)
class Fp8Block:
    """tile: rows and columns that share a scale."""

    tile: tuple[int, int]
    name: str = "fp8_block"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs = matrix.inputs
        column_tiles = blocks(inputs, self.tile[1])
        weights, scales = [], []
        for run in matrix.outputs:
            row_tiles = blocks(run.share, self.tile[0])
            shape, tiles = (run.share.size, inputs.size), (row_tiles.size, column_tiles.size)
            weights.append(Part(f"{run.module}.weight", shape, (run.share.window, inputs.window)))
            scales.append(Part(f"{run.module}.weight_scale_inv", tiles, (row_tiles.window, column_tiles.window)))
        outputs = [run.share for run in matrix.outputs]
        return {
            "weight": Weight(tuple(weights), dtype=torch.float8_e4m3fn),
            "scale": Weight(tuple(scales), dtype=torch.float32, dummy=1.0),
            "row_tile": Computed(partial(block_of, outputs, self.tile[0])),
            "column_tile": Computed(partial(block_of, [inputs], self.tile[1])),
        }

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear_fp8_block(x, *_of(tensors), bias)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.silu_and_mul(self.multiply(tensors, x, bias))

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, choice: Tensor, share: Tensor, first: int
    ) -> Tensor:
        return ops.gated_experts_fp8_block(x, *_of(gate_up), *_of(down), choice, share, first)


def _of(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tensors["weight"], tensors["scale"], tensors["row_tile"], tensors["column_tile"]
