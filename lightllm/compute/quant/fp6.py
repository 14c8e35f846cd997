"""Weights of 6 bits (E3M2) that are made of floats as these are read, with a scale an output."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.ops.fp6 import PACKED, dequantized, packed, scale_of
from lightllm.compute.quant.method import Routed, Tensors
from lightllm.compute.weights.weight import Conversion, Matrix, Part, Weight


@dataclass(frozen=True)
class MadeFp6:
    """Scales are of whole rows, so that a rank's share is what it is of the whole."""

    name: str = "fp6"

    def declare(self, matrix: Matrix) -> dict[str, Weight]:
        inputs = matrix.inputs
        if inputs.start % PACKED or inputs.count % PACKED:
            raise ConfigError(
                f"{matrix.outputs[0].module}: fp6 packs {PACKED} inputs together, which ranks cannot share; this rank "
                f"would hold inputs {inputs.start} to {inputs.stop} of {inputs.size}; use a smaller --tp"
            )

        def weight(rows: Tensor) -> Tensor:
            return packed(rows[:, inputs.window], scale_of(rows))

        def parts(convert: Callable[[Tensor], Tensor], *kept: int) -> tuple[Part, ...]:
            return tuple(
                Part(
                    f"{run.module}.weight",
                    (run.share.size, inputs.size),
                    (run.share.window, slice(0, inputs.size)),
                    Conversion(convert, (run.share.count, *kept), step=1),
                )
                for run in matrix.outputs
            )

        return {
            "weight": Weight(parts(weight, inputs.count * 3 // PACKED), dtype=torch.uint8),
            "scale": Weight(parts(scale_of), dtype=torch.float32),
        }

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        return tensors

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear_fp6(x, *_of(tensors), bias)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.silu_and_mul(self.multiply(tensors, x, bias))

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        return ops.gated_experts_fp6(x, *_of(gate_up), *_of(down), *routed, beside)


def _of(tensors: Tensors) -> tuple[Tensor, Tensor]:
    return tensors["weight"], tensors["scale"]
