"""Weights as they are: one float tensor a matrix."""

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.ops.per_channel import Rounded
from lightllm.compute.quant.method import Routed, Tensors
from lightllm.compute.weights.weight import Matrix, Part, Weight


class Unquantized:
    name = "none"

    def declare(self, matrix: Matrix) -> dict[str, Weight]:
        inputs = matrix.inputs
        parts = tuple(
            Part(f"{run.module}.weight", (run.share.size, inputs.size), (run.share.window, inputs.window))
            for run in matrix.outputs
        )
        return {"weight": Weight(parts)}

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        return tensors

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear(x, tensors["weight"], bias)

    def in_parts(self, tensors: Tensors, x: Tensor | Rounded) -> Tensor | None:
        assert isinstance(x, Tensor), "floats are never rounded"
        weight = tensors["weight"]
        return ops.linear_in_parts(x, weight) if ops.linear_in_parts.pays(len(x), *weight.shape) else None

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.gated_linear(x, tensors["weight"], bias)

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return tensors["weight"].to(dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        return ops.gated_experts(x, gate_up["weight"], down["weight"], *routed, beside)
