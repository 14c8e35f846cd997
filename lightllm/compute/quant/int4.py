"""What all 4-bit formats become on the device: AWQ's packing, with a scale and a zero point for each group of inputs.

Formats differ in what their checkpoints hold, which is converted as it is read; one set of kernels multiplies them all.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.ops.awq import NIBBLE, PACKED, dequantized
from lightllm.compute.ops.int4 import COLUMNS, SMALL_GROUPS, tiled
from lightllm.compute.quant.method import Routed, Tensors
from lightllm.compute.weights.share import Share, blocks
from lightllm.compute.weights.weight import Declared, Matrix, Part, Run, Weight


@dataclass(frozen=True)
class Int4:
    """group: inputs that share a scale and a zero point; 0: all of them. order: the checkpoint says which those are."""

    group: int
    name: str
    order: bool = False

    def arranged(self, matrix: Matrix, tensors: Tensors) -> Tensors:
        """In tiles, where the device has a kernel for these and groups are runs of inputs, or can be made so."""
        if not ops.linear_int4.is_fast or not self._has_runs(matrix.inputs):
            return tensors
        group_of = tensors["group_of"]
        order = group_of.argsort(stable=True) if self.order else None
        runs = torch.arange(len(group_of), device=group_of.device) // self.group_size(matrix.inputs)
        if not group_of.is_meta and not torch.equal(group_of if order is None else group_of[order], runs):
            return tensors  # a rank's share of groups that lie scattered
        tiles = tiled(tensors["weight"], tensors["zeros"], tensors["scales"], order)
        return {name: tensor for name, tensor in tiles._asdict().items() if tensor is not None}

    def _has_runs(self, inputs: Share) -> bool:
        """Whether this share of the inputs begins with a group, and groups are as long as kernels take them."""
        group = self.group_size(inputs)
        fits = group in SMALL_GROUPS or group % COLUMNS == 0 or group >= inputs.count
        return fits and (inputs.start % group == 0 or blocks(inputs, group).count == 1)

    def multiply(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        if "words" in tensors:
            return ops.linear_int4(x, *_tiles(tensors), self.group or x.shape[1], bias)
        return ops.linear_awq(x, *_of(tensors), bias)

    def gated(self, tensors: Tensors, x: Tensor, bias: Tensor | None) -> Tensor:
        if "words" in tensors:
            return ops.gated_linear_int4(x, *_tiles(tensors), self.group or x.shape[1], bias)
        return ops.silu_and_mul(self.multiply(tensors, x, bias))

    def dense(self, tensors: Tensors, dtype: torch.dtype) -> Tensor:
        return dequantized(*_of(tensors), dtype)

    def gated_experts(
        self, gate_up: Tensors, down: Tensors, x: Tensor, routed: Routed, beside: Tensor | None
    ) -> Tensor:
        return ops.gated_experts_awq(x, *_of(gate_up), *_of(down), *routed, beside)

    def group_size(self, inputs: Share) -> int:
        return self.group or inputs.size

    def packed(self, run: Run) -> Share:
        """The share in numbers of eight outputs. Raises ConfigError if it begins or ends within one."""
        share = run.share
        if share.size % PACKED:
            raise ConfigError(f"{run.module}: {self.name} packs {PACKED} outputs in one number; it has {share.size}")
        if share.start % PACKED or share.stop % PACKED:
            raise ConfigError(
                f"{run.module}: {self.name} packs {PACKED} outputs in one number, which ranks cannot share; "
                f"this rank would hold outputs {share.start} to {share.stop} of {share.size}; use a smaller --tp"
            )
        return Share(share.size // PACKED, share.start // PACKED, share.stop // PACKED)


def joined(
    weights: list[Part], zeros: list[Part], scales: list[Part], *, dummy: float | None = 0.005
) -> dict[str, Declared]:
    """The tensors that all 4-bit formats have, of parts of the outputs. dummy: the scales of a dummy."""
    return {
        "weight": Weight(tuple(weights), axis=1, dtype=torch.int32),
        "zeros": Weight(tuple(zeros), axis=1, dtype=torch.int32),
        "scales": Weight(tuple(scales), axis=1, dtype=torch.float32, dummy=dummy),
    }


def packed_as_awq(numbers: Tensor) -> Tensor:
    """numbers [n, outputs] of 0 ... 15 -> [n, outputs / 8] int32; the inverse of ops.awq.unpacked."""
    shifts = torch.tensor(NIBBLE, dtype=torch.int64, device=numbers.device) * 4
    words = (numbers.to(torch.int64).unflatten(-1, (-1, PACKED)) << shifts).sum(-1)
    return (words - ((words >> 31) << 32)).to(torch.int32)


def unpacked_in_order(words: Tensor) -> Tensor:
    """words [..., n] int32 -> [..., 8 n] of 0 ... 15, the lowest bits first."""
    shifts = torch.arange(PACKED, dtype=torch.int32, device=words.device) * 4
    return ((words.unsqueeze(-1) >> shifts) & 15).flatten(-2)


def _tiles(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    return tensors["words"], tensors["steps"], tensors.get("order")


def _of(tensors: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tensors["weight"], tensors["zeros"], tensors["scales"], tensors["group_of"]
