"""Mixtures of experts: pairs of tokens and experts sorted, two products of each expert with its rows, and their sum."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import tuned
from lightllm.compute.kernels.triton.expert_products import Matrices, Product, multiply, multiply_gated
from lightllm.compute.kernels.triton.expert_rows import combine, sort
from lightllm.compute.kernels.triton.launch import NARROWEST, cdiv, next_power_of_2, why_not
from lightllm.compute.kernels.triton.quantize import quantize_groups
from lightllm.compute.ops.fp8_block import TILE

MOST_TOKENS = 4096  # what parameters depend on: more tokens have those of this many
MOST_OF_A_RUN = 2  # tiles along the inputs, of which there are as many as stages: six would not fit


@dataclass(frozen=True)
class Shape:
    """Launch parameters. rows: of a block; the others are of the first product, and of the second one (down_*)."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int
    down_outputs: int
    down_inputs: int
    down_warps: int
    down_stages: int
    down_run: int = 1

    @property
    def wide(self) -> Product:
        return Product(self.outputs, self.inputs, self.warps, self.stages)

    def narrow(self, inputs: int) -> Product:
        """Of the second product, with so many inputs. A run has all their tiles in shared memory, if these are few."""
        run = self.down_run if cdiv(inputs, self.down_inputs) <= MOST_OF_A_RUN else 1
        return Product(self.down_outputs, self.down_inputs, self.down_warps, self.down_stages, run)


# By rows of an expert on average, at most so many. Source: docs/performance-log.md.
MEASURED = {
    "plain": [
        (0.1, Shape(16, 64, 64, 4, 4, 64, 64, 4, 4)),
        (8, Shape(16, 64, 128, 4, 3, 128, 64, 4, 4)),
        (32, Shape(32, 64, 64, 4, 4, 64, 64, 4, 4)),
        (128, Shape(64, 64, 64, 4, 4, 64, 64, 4, 4)),
        (math.inf, Shape(128, 128, 64, 8, 4, 128, 64, 8, 4)),
    ],
    "scaled": [
        (0.1, Shape(16, 64, 128, 4, 6, 256, 64, 8, 4)),
        (0.5, Shape(16, 128, 128, 8, 4, 128, 128, 4, 2)),
        (1.5, Shape(16, 64, 128, 4, 4, 128, 64, 4, 4)),
        (16, Shape(16, 128, 128, 4, 3, 128, 128, 4, 2)),
        (64, Shape(32, 64, 128, 4, 4, 128, 64, 4, 4)),
        (math.inf, Shape(64, 128, 128, 8, 4, 128, 128, 4, 2, 2)),
    ],
}


def shape_for(form: str, tokens: int, experts: int, top_k: int, dtype: torch.dtype) -> Shape:
    """Parameters for so many tokens, a power of two, if all experts are chosen alike."""
    if form == "tiles":
        return Shape(NARROWEST, 32, TILE, 4, 2, 32, TILE, 4, 2)
    if dtype == torch.float32 or form in ("awq", "channels", "fp6"):
        return Shape(NARROWEST, 32, 32, 4, 2, 32, 32, 4, 2)
    return next(shape for most, shape in MEASURED[form] if tokens * top_k <= most * experts)


def mixture(
    x: Tensor,
    gate_up: Matrices,
    down: Matrices,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
    *,
    shape: Shape | None = None,
) -> Tensor:
    """ops.gated_experts. shape: launch parameters, where they are not to be looked up."""
    (tokens, top_k), experts = choice.shape, len(gate_up.weight)
    if not tokens:
        return torch.zeros_like(x)
    x = x if x.stride(1) == 1 else x.contiguous()
    if shape is None:
        counted = min(next_power_of_2(tokens), MOST_TOKENS)
        default = shape_for(gate_up.format, counted, experts, top_k, x.dtype)
        shape = tuned.shape(x.device, f"experts {gate_up.format}", Shape, sizes_of(gate_up, counted, top_k), default)
    assert shape is not None, "no library computes this"
    rows = sort(choice, first, experts, shape.rows)
    given, scale = quantize_groups(x, gate_up.weight.dtype) if gate_up.format == "scaled" else (x, None)
    wide, scale = multiply_gated(given, scale, gate_up, rows, shape.wide, top_k=top_k, dtype=x.dtype)
    narrow = multiply(wide, scale, down, rows, shape.narrow(down.inputs), group=shape.outputs, dtype=x.dtype)
    return combine(narrow, rows.place, share, beside)


def sizes_of(gate_up: Matrices, tokens: int, top_k: int) -> tuple[int, ...]:
    """What parameters are looked up by: tokens, choices of each, experts, outputs and inputs of the first product."""
    return tokens, top_k, len(gate_up.weight), gate_up.outputs, gate_up.inputs


@ops.gated_experts.implementation("triton", why_not)
def gated_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    wide, narrow = (Matrices("plain", weight, *weight.shape[1:]) for weight in (gate_up, down))
    return mixture(x, wide, narrow, choice, share, first, beside)


@ops.gated_experts_fp8_block.implementation("triton", why_not)
def gated_experts_fp8_block(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_up_row_tile: Tensor,
    gate_up_column_tile: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_row_tile: Tensor,
    down_column_tile: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    wide_more = gate_up_scale, gate_up_row_tile, gate_up_column_tile
    narrow_more = down_scale, down_row_tile, down_column_tile
    are_whole = _has_whole_tiles(gate_up, gate_up_scale) and _has_whole_tiles(down, down_scale)
    form = "scaled" if are_whole and x.dtype != torch.float32 else "tiles"
    wide = Matrices(form, gate_up, *gate_up.shape[1:], wide_more)
    return mixture(x, wide, Matrices(form, down, *down.shape[1:], narrow_more), choice, share, first, beside)


def _has_whole_tiles(weight: Tensor, scale: Tensor) -> bool:
    """Whether each TILE inputs have one scale: tiles are cut nowhere, or are larger."""
    return weight.shape[2] == scale.shape[2] * TILE


@ops.gated_experts_per_channel.implementation("triton", why_not)
def gated_experts_per_channel(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    rounds: bool,
    beside: Tensor | None = None,
) -> Tensor:
    form = "scaled" if rounds and x.dtype != torch.float32 else "channels"
    wide, narrow = (
        Matrices(form, weight, *weight.shape[1:], (scale,))
        for weight, scale in ((gate_up, gate_up_scale), (down, down_scale))
    )
    return mixture(x, wide, narrow, choice, share, first, beside)


@ops.gated_experts_fp6.implementation("triton", why_not)
def gated_experts_fp6(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    wide, narrow = (
        Matrices("fp6", weight, weight.shape[1], weight.shape[2] // 3 * 4, (scale,))
        for weight, scale in ((gate_up, gate_up_scale), (down, down_scale))
    )
    return mixture(x, wide, narrow, choice, share, first, beside)


@ops.gated_experts_awq.implementation("triton", why_not)
def gated_experts_awq(
    x: Tensor,
    gate_up: Tensor,
    gate_up_zeros: Tensor,
    gate_up_scales: Tensor,
    gate_up_group_of: Tensor,
    down: Tensor,
    down_zeros: Tensor,
    down_scales: Tensor,
    down_group_of: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    wide_more, narrow_more = (gate_up_zeros, gate_up_scales, gate_up_group_of), (down_zeros, down_scales, down_group_of)
    wide, narrow = (
        Matrices("awq", weight, scales.shape[2], weight.shape[1], (zeros, scales, group_of))
        for weight, (zeros, scales, group_of) in ((gate_up, wide_more), (down, narrow_more))
    )
    return mixture(x, wide, narrow, choice, share, first, beside)
