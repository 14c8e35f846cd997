"""8-bit weights, E4M3 or whole numbers, with one scale an output or one for a whole matrix."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.ops.per_channel import Rounded, dequantized, quantized
from lightllm.compute.quant.method import Routed, Tensors
from lightllm.compute.weights.share import Share
from lightllm.compute.weights.weight import Conversion, Matrix, Part, Run, Weight

Source = Literal["channel", "tensor", "made"]


@dataclass(frozen=True)
class PerChannel:
    """kind: of the weights. rounds: activations are rounded to it, each token with its own scale.

    source: the checkpoint has a `weight_scale` for each output, or one for the tensor; or its weights are floats, and
    the scales are made from whole rows, so that those of a share are those of the whole.
    """

    name: str
    kind: torch.dtype
    rounds: bool
    source: Source

    def declare(self, matrix: Matrix) -> dict[str, Weight]:
        weights = tuple(self._weight(run, matrix.inputs) for run in matrix.outputs)
        scales = tuple(self._scale(run, matrix.inputs) for run in matrix.outputs)
        # Of a model without a checkpoint, random weights shall be as large as those of other formats.
        dummy = {"made": None}.get(self.source, 1.0 if self.kind.is_floating_point else 3e-4)
        return {"weight": Weight(weights, dtype=self.kind), "scale": Weight(scales, dtype=torch.float32, dummy=dummy)}

    def _weight(self, run: Run, inputs: Share) -> Part:
        name, shape, kept = f"{run.module}.weight", (run.share.size, inputs.size), (run.share.count, inputs.count)
        if self.source != "made":
            return Part(name, shape, (run.share.window, inputs.window))

        def convert(rows: Tensor) -> Tensor:
            return quantized(rows, self.kind)[0][:, inputs.window]

        return Part(name, shape, (run.share.window, slice(0, inputs.size)), Conversion(convert, kept, step=1))

    def _scale(self, run: Run, inputs: Share) -> Part:
        outputs, kept = run.share, (run.share.count,)
        match self.source:
            case "made":
                window = outputs.window, slice(0, inputs.size)
                conversion = Conversion(lambda rows: quantized(rows, self.kind)[1], kept, step=1)
                return Part(f"{run.module}.weight", (outputs.size, inputs.size), window, conversion)
            case "channel":
                window = outputs.window, slice(0, 1)
                conversion = Conversion(lambda column: column.flatten(), kept)
                return Part(f"{run.module}.weight_scale", (outputs.size, 1), window, conversion)
            case "tensor":
                conversion = Conversion(lambda scale: scale.reshape(1).expand(kept), kept)
                name = f"{run.module}.weight_scale"
                return Part(name, (), (), conversion, other_name=f"{name}_inv")

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        return tensors

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear_per_channel(x, *_of(tensors), bias, self.rounds)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.gated_linear_per_channel(x, *_of(tensors), bias, self.rounds)

    def in_parts(self, tensors: Tensors, x: Tensor | Rounded) -> Tensor | None:
        if not self.rounds or not ops.linear_per_channel_in_parts.pays(len(x), len(tensors["weight"])):
            return None
        if isinstance(x, Rounded):
            return ops.linear_of_rounded_in_parts(x.numbers, x.scale, *_of(tensors), x.dtype)
        return ops.linear_per_channel_in_parts(x, *_of(tensors))

    def rounded_to(self, dtype: torch.dtype) -> torch.dtype | None:
        return self.kind if self.rounds and dtype != torch.float32 else None

    def multiply_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Tensor:
        return ops.linear_of_rounded(x.numbers, x.scale, *_of(tensors), bias, x.dtype)

    def gated_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Tensor:
        return ops.gated_linear_of_rounded(x.numbers, x.scale, *_of(tensors), bias, x.dtype)

    def gated_to_rounded(self, tensors: Tensors, x: Rounded, bias: Tensor | None) -> Rounded | None:
        if not ops.gated_linear_rounded.pays(len(x), len(tensors["weight"]) // 2):
            return None
        return Rounded(*ops.gated_linear_rounded(x.numbers, x.scale, *_of(tensors), bias, x.dtype), x.dtype)

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        return ops.gated_experts_per_channel(x, *_of(gate_up), *_of(down), *routed, self.rounds, beside)


def _of(tensors: Tensors) -> tuple[Tensor, Tensor]:
    return tensors["weight"], tensors["scale"]
