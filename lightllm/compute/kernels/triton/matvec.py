# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of a weight matrix with few tokens: the cost is reading the weights once.

Bytes in flight are what matters: a program streams OUTPUTS rows of the matrix through several stages of shared memory,
and all programs run at once. The matrix is the tall operand of the matrix unit and the tokens its narrow one.
On Hopper matvec_hopper.py does the same with the copy engine.
Suffixes: O rows of the matrix, I inputs of a tile, T tokens, W pairs of rows.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, begin, cdiv, depends, padded

MOST_TOKENS = 64


@dataclass(frozen=True)
class Shape:
    """Launch parameters. splits: how many programs share a row's inputs."""

    outputs: int
    inputs: int
    splits: int = 1
    warps: int = 4
    stages: int = 4


@triton.jit(do_not_specialize=["tokens"])
def _multiply(
    x, weight, bias, y, parts, counters, tokens, outputs, inputs, x_stride, weight_stride,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, SPLITS: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS rows of the matrix by all tokens, over one of SPLITS parts of the inputs. EVEN: no tile sticks out.

    GATED: of the matrix's `outputs` rows the first half are gates; each gate and its other row make one number of y.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    index_O, token_T, input_I = tl.arange(0, OUTPUTS), tl.arange(0, TOKENS), tl.arange(0, INPUTS)
    row_O = block * OUTPUTS + index_O
    is_row_O, is_token_T = row_O < outputs, token_T < tokens
    if GATED:
        # A gate and its other row lie next to one another in the tile.
        row_O = block * (OUTPUTS // 2) + index_O // 2 + (index_O % 2) * (outputs // 2)
    tiles = tl.cdiv(inputs, INPUTS)
    begin_tile, end_tile = split * tiles // SPLITS, (split + 1) * tiles // SPLITS
    weight_O = weight + row_O.to(tl.int64) * weight_stride
    begin(DEPENDENT)
    sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for tile in range(begin_tile, end_tile):
        here_I = tile * INPUTS + input_I
        if EVEN:
            weight_OI = tl.load(weight_O[:, None] + here_I[None, :])
            x_TI = tl.load(x + token_T[:, None] * x_stride + here_I[None, :], mask=is_token_T[:, None], other=0.0)
        else:
            is_input_I = here_I < inputs
            mask_OI, mask_TI = is_row_O[:, None] & is_input_I[None, :], is_token_T[:, None] & is_input_I[None, :]
            weight_OI = tl.load(weight_O[:, None] + here_I[None, :], mask=mask_OI, other=0.0)
            x_TI = tl.load(x + token_T[:, None] * x_stride + here_I[None, :], mask=mask_TI, other=0.0)
        sum_OT = tl.dot(weight_OI, x_TI.T, sum_OT)

    mask_OT = is_row_O[:, None] & is_token_T[None, :]
    is_last = True
    if SPLITS > 1:
        part_OT = parts + token_T[None, :] * outputs + (block * OUTPUTS + index_O)[:, None]
        tl.store(part_OT + split * tokens * outputs, sum_OT, mask=mask_OT)
        # The part of every thread is written before the one thread that counts does so.
        tl.debug_barrier()
        is_last = tl.atomic_add(counters + block, 1, sem="acq_rel") == SPLITS - 1
    if is_last:
        if SPLITS > 1:
            # In one order whoever is last, so that results do not vary.
            sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
            for part in tl.static_range(SPLITS):
                sum_OT += tl.load(part_OT + part * tokens * outputs, mask=mask_OT, other=0.0, cache_modifier=".cg")
            tl.store(counters + block, 0)
        if BIASED:
            sum_OT += tl.load(bias + row_O, mask=is_row_O, other=0.0).to(tl.float32)[:, None]
        if GATED:
            gate_WT, up_WT = tl.split(tl.permute(tl.reshape(sum_OT, [OUTPUTS // 2, 2, TOKENS]), [0, 2, 1]))
            output_W = block * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
            at_WT = y + token_T[None, :] * (outputs // 2) + output_W[:, None]
            gated_WT = gate_WT / (1.0 + tl.exp(-gate_WT)) * up_WT
            mask_WT = (output_W < outputs // 2)[:, None] & is_token_T[None, :]
            tl.store(at_WT, gated_WT.to(y.dtype.element_ty), mask=mask_WT)
        else:
            tl.store(y + token_T[None, :] * outputs + row_O[:, None], sum_OT.to(y.dtype.element_ty), mask=mask_OT)


def shape_for(tokens: int, outputs: int, inputs: int, *, gated: bool) -> Shape | None:
    """Parameters for these sizes, or None where the library is faster. Source: docs/performance-log.md."""
    if tokens <= 16 and outputs < 5000 and inputs < 4096:
        # Small matrices: what counts is that all multiprocessors have a part.
        return Shape(outputs=32, inputs=256) if outputs >= 4096 else Shape(outputs=16, inputs=256, splits=2, stages=5)
    if tokens <= 32 and (outputs >= 5000 or inputs >= 4096):
        return Shape(outputs=64, inputs=128, splits=1 if outputs >= 5000 else 4)
    if outputs >= 16_384:
        return Shape(outputs=64, inputs=64, stages=5)
    return Shape(outputs=64, inputs=128, splits=4, stages=3) if inputs >= 8192 else None


def multiply(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: Shape,
    *,
    gated: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """ops.linear, or if gated ops.gated_linear, for at most MOST_TOKENS tokens of 16 bits. dtype: of the result, if
    not x's."""
    (tokens, inputs), outputs = x.shape, len(weight)
    y = torch.empty(tokens, outputs // 2 if gated else outputs, dtype=dtype or x.dtype, device=x.device)
    blocks, dependent = cdiv(outputs, shape.outputs), depends(x.device)
    even = outputs % shape.outputs == 0 and inputs % shape.inputs == 0
    parts = y
    if shape.splits > 1:
        assert blocks <= ARRIVALS, f"{outputs} outputs in blocks of {shape.outputs}; at most {ARRIVALS} blocks"
        parts = torch.empty(shape.splits, tokens, outputs, dtype=torch.float32, device=x.device)
    _multiply[(blocks, shape.splits)](
        x, weight, bias, y, parts, arrivals(x.device), tokens, outputs, inputs, x.stride(0), weight.stride(0),
        TOKENS=padded(tokens), OUTPUTS=shape.outputs, INPUTS=shape.inputs,
        SPLITS=shape.splits, EVEN=even, BIASED=bias is not None, GATED=gated, DEPENDENT=dependent,
        launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return y
