"""4-bit weights with zero points, as AutoAWQ packs them for its GEMM kernels (`qweight`, `qzeros`, `scales`)."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.ops.awq import PACKED, dequantized
from lightllm.compute.quant.method import Tensors
from lightllm.compute.weights.share import Share, block_of, blocks
from lightllm.compute.weights.weight import Computed, Declared, Matrix, Part, Run, Weight


@dataclass(frozen=True)
class Awq:
    """group: inputs that share a scale and a zero point. Tensors lie inputs first, outputs last."""

    group: int
    name: str = "awq"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs = matrix.inputs
        groups = blocks(inputs, self.group)
        weights, zeros, scales = [], [], []
        for run in matrix.outputs:
            packed = _packed(run)
            weights.append(_part(run, "qweight", inputs, packed))
            zeros.append(_part(run, "qzeros", groups, packed))
            scales.append(_part(run, "scales", groups, run.share))
        return {
            "weight": Weight(tuple(weights), axis=1, dtype=torch.int32),
            "zeros": Weight(tuple(zeros), axis=1, dtype=torch.int32),
            "scales": Weight(tuple(scales), axis=1, dtype=torch.float32, dummy=0.005),
            "group_of": Computed(partial(block_of, [inputs], self.group)),
        }

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.linear_awq(x, *_of(tensors), bias)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        return ops.silu_and_mul(self.multiply(tensors, x, bias))

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, choice: Tensor, share: Tensor, first: int
    ) -> Tensor:
        return ops.gated_experts_awq(x, *_of(gate_up), *_of(down), choice, share, first)


def _part(run: Run, suffix: str, first: Share, last: Share) -> Part:
    return Part(f"{run.module}.{suffix}", (first.size, last.size), (first.window, last.window))


def _packed(run: Run) -> Share:
    """The share in numbers of eight outputs. Raises ConfigError if it begins or ends within one."""
    share = run.share
    if share.size % PACKED or share.start % PACKED or share.stop % PACKED:
        raise ConfigError(
            f"{run.module}: awq packs {PACKED} outputs in one number, which ranks cannot share; "
            f"this rank would hold outputs {share.start} to {share.stop} of {share.size}; use a smaller --tp"
        )
    return Share(share.size // PACKED, share.start // PACKED, share.stop // PACKED)


def _of(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tensors["weight"], tensors["zeros"], tensors["scales"], tensors["group_of"]
