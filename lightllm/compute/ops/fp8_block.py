"""Products with weights in 8-bit floats (E4M3), one float32 scale a tile. Source: arXiv:2412.19437 section 3.3.

A rank's share may begin or end inside a tile, so each row and each column names the tile it lies in. Activations of 16
bits are rounded to 8 bits before they are multiplied, each TILE inputs of a token with a scale of their own, as they
were when these weights were made; those of 32 bits are not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops import per_channel
from lightllm.compute.ops.experts import mixture
from lightllm.compute.ops.op import TOLERANCE, Facts, op

TILE = 128
LARGEST = per_channel.LARGEST[torch.float8_e4m3fn]
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}


def random_matrix(
    rows: int, columns: int, facts: Facts, *, experts: int | None = None, start: int = 40
) -> tuple[Tensor, ...]:
    """weight, scale, row_tile, column_tile of a share that begins at `start`; stacked if there are `experts`."""
    row_tile, column_tile = (torch.arange(start, start + size, device=facts.device) // TILE for size in (rows, columns))
    stack = () if experts is None else (experts,)
    weight = torch.randn(*stack, rows, columns, device=facts.device).to(torch.float8_e4m3fn)
    tiles = int(row_tile[-1]) + 1, int(column_tile[-1]) + 1
    scale = (torch.rand(*stack, *tiles, device=facts.device) + 0.5) * columns**-0.5
    return weight, scale, row_tile, column_tile


def _linear_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 128, 256), (7, 192, 200), (3, 40, 96)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        for bias in (None, torch.randn(outputs, dtype=facts.dtype, device=facts.device)):
            yield x, *random_matrix(outputs, inputs, facts), bias


def _expert_cases(facts: Facts):
    for tokens, experts, local, first, hidden, width, top_k, start in [
        (1, 4, 4, 0, 96, 200, 2, 40),
        (9, 8, 3, 4, 128, 64, 3, 40),
        (5, 6, 6, 0, 256, 128, 2, 0),  # whole tiles
    ]:
        choice = torch.stack([torch.randperm(experts, device=facts.device)[:top_k] for _ in range(tokens)])
        gate_up = random_matrix(2 * width, hidden, facts, experts=local, start=start)
        down = random_matrix(hidden, width, facts, experts=local, start=start)
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        yield x, *gate_up, *down, choice, torch.rand(tokens, top_k, device=facts.device), first, x.flip(0)


def dequantized(weight: Tensor, scale: Tensor, row_tile: Tensor, column_tile: Tensor, dtype: torch.dtype) -> Tensor:
    """weight[i, j] * scale[row_tile[i], column_tile[j]], computed in float32: [rows, columns] of `dtype`."""
    return (weight.float() * scale[row_tile][:, column_tile]).to(dtype)


def quantized(weight: Tensor, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """weight [rows, columns] in E4M3, and a scale for each tile [row tiles, column tiles] float32; the last are cut."""
    (rows, columns), (height, width) = weight.shape, tile
    padded = F.pad(weight.float(), (0, -columns % width, 0, -rows % height))
    tiles = padded.unflatten(1, (-1, width)).unflatten(0, (-1, height))  # [row tiles, height, column tiles, width]
    scale = (tiles.abs().amax((1, 3)) / LARGEST).clamp(min=per_channel.SMALLEST_SCALE)
    numbers = (tiles / scale[:, None, :, None]).flatten(2).flatten(0, 1)
    return numbers[:rows, :columns].to(torch.float8_e4m3fn), scale


def rounded(x: Tensor) -> Tensor:
    """x [tokens, inputs] float32 as it is multiplied: in E4M3, each TILE inputs scaled by their largest / LARGEST."""
    groups = F.pad(x, (0, -x.shape[1] % TILE)).unflatten(1, (-1, TILE))
    scale = (groups.abs().amax(-1, keepdim=True) / LARGEST).clamp(min=per_channel.SMALLEST_SCALE)
    return ((groups / scale).to(torch.float8_e4m3fn).float() * scale).flatten(1)[:, : x.shape[1]]


@op(cases=_linear_cases, tolerance=_TOLERANCE)
def linear_fp8_block(
    x: Tensor, weight: Tensor, scale: Tensor, row_tile: Tensor, column_tile: Tensor, bias: Tensor | None
) -> Tensor:
    """x W^T + bias, W being the dequantized weight.

    x [tokens, inputs]; weight [outputs, inputs] float8_e4m3fn; scale [row tiles, column tiles] float32;
    row_tile [outputs], column_tile [inputs] int64; bias [outputs].
    """
    given = x if x.dtype == torch.float32 else rounded(x.float())
    y = F.linear(given, dequantized(weight, scale, row_tile, column_tile, torch.float32))
    return (y if bias is None else y + bias).to(x.dtype)


# What experts make inside is rounded to 8 bits, too, which makes much of a difference in the last of 16 bits; and a
# kernel may give fewer numbers than TILE a scale.
@op(cases=_expert_cases, tolerance=_TOLERANCE | {torch.float16: 0.12, torch.bfloat16: 0.12})
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
    """As gated_experts. Weights and scales have a first axis of local experts; the tiles are the same for all."""

    def matrices(local: int) -> tuple[Tensor, Tensor]:
        wide = dequantized(gate_up[local], gate_up_scale[local], gate_up_row_tile, gate_up_column_tile, torch.float32)
        return wide, dequantized(down[local], down_scale[local], down_row_tile, down_column_tile, torch.float32)

    held = range(first, first + len(down))
    if x.dtype == torch.float32:
        return mixture(x, choice, share, held, matrices, beside)
    return mixture(x.float(), choice, share, held, matrices, beside, rounded).to(x.dtype)
