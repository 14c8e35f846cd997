# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of a weight matrix with few tokens: the cost is reading the weights once.

Bytes in flight are what matters: a program streams OUTPUTS rows of the matrix through several stages of shared memory,
and all programs run at once. The matrix is the tall operand of the matrix unit and the tokens its narrow one.
Suffixes: O outputs of a program, I inputs of a tile, T tokens, J splits of the inputs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import ARRIVALS, arrivals, begin, depends, why_not

MOST_TOKENS = 64
NARROWEST = 16  # columns of the smallest matrix product


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
    EVEN: tl.constexpr, BIASED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """OUTPUTS outputs of all tokens, over one of SPLITS parts of the inputs. EVEN: no tile sticks out."""
    block, split = tl.program_id(0), tl.program_id(1)
    output_O, token_T, input_I = tl.arange(0, OUTPUTS), tl.arange(0, TOKENS), tl.arange(0, INPUTS)
    output_O += block * OUTPUTS
    is_output_O, is_token_T = output_O < outputs, token_T < tokens
    tiles = tl.cdiv(inputs, INPUTS)
    begin_tile, end_tile = split * tiles // SPLITS, (split + 1) * tiles // SPLITS
    weight_O = weight + output_O.to(tl.int64) * weight_stride
    begin(DEPENDENT)
    sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for tile in range(begin_tile, end_tile):
        here_I = tile * INPUTS + input_I
        if EVEN:
            weight_OI = tl.load(weight_O[:, None] + here_I[None, :])
            x_TI = tl.load(x + token_T[:, None] * x_stride + here_I[None, :], mask=is_token_T[:, None], other=0.0)
        else:
            is_input_I = here_I < inputs
            mask_OI, mask_TI = is_output_O[:, None] & is_input_I[None, :], is_token_T[:, None] & is_input_I[None, :]
            weight_OI = tl.load(weight_O[:, None] + here_I[None, :], mask=mask_OI, other=0.0)
            x_TI = tl.load(x + token_T[:, None] * x_stride + here_I[None, :], mask=mask_TI, other=0.0)
        sum_OT = tl.dot(weight_OI, x_TI.T, sum_OT)

    mask_OT = is_output_O[:, None] & is_token_T[None, :]
    at_OT = token_T[None, :] * outputs + output_O[:, None]
    is_last = True
    if SPLITS > 1:
        tl.store(parts + split * tokens * outputs + at_OT, sum_OT, mask=mask_OT)
        # The part of every thread is written before the one thread that counts does so.
        tl.debug_barrier()
        is_last = tl.atomic_add(counters + block, 1, sem="acq_rel") == SPLITS - 1
    if is_last:
        if SPLITS > 1:
            # In one order whoever is last, so that results do not vary.
            sum_OT = tl.zeros([OUTPUTS, TOKENS], tl.float32)
            for part in tl.static_range(SPLITS):
                at_JOT = parts + part * tokens * outputs + at_OT
                sum_OT += tl.load(at_JOT, mask=mask_OT, other=0.0, cache_modifier=".cg")
            tl.store(counters + block, 0)
        if BIASED:
            sum_OT += tl.load(bias + output_O, mask=is_output_O, other=0.0).to(tl.float32)[:, None]
        tl.store(y + at_OT, sum_OT.to(y.dtype.element_ty), mask=mask_OT)


def shape_for(tokens: int, outputs: int, inputs: int) -> Shape | None:
    """Parameters for these sizes, or None where the library is faster. Source: docs/performance-log.md."""
    if tokens <= 16 and outputs < 5000 and inputs < 4096:
        # Small matrices: what counts is that all multiprocessors have a part.
        return Shape(outputs=32, inputs=256) if outputs >= 4096 else Shape(outputs=16, inputs=256, splits=2, stages=5)
    if tokens <= 32 and (outputs >= 5000 or inputs >= 4096):
        return Shape(outputs=64, inputs=128, splits=1 if outputs >= 5000 else 4)
    if tokens <= MOST_TOKENS and outputs >= 16_384:
        return Shape(outputs=64, inputs=64, stages=5)
    if tokens <= MOST_TOKENS and inputs >= 8192:
        return Shape(outputs=64, inputs=128, splits=4, stages=3)
    return None


@ops.linear.implementation("triton", why_not)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    shape = None
    if x.dtype != torch.float32 and weight.stride(1) == 1 and len(x) > 0:
        shape = shape_for(len(x), *weight.shape)
    return F.linear(x, weight, bias) if shape is None else multiply(x, weight, bias, shape)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    """ops.linear for at most MOST_TOKENS tokens of 16 bits."""
    (tokens, inputs), outputs = x.shape, len(weight)
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    blocks, dependent = triton.cdiv(outputs, shape.outputs), depends(x.device)
    even = outputs % shape.outputs == 0 and inputs % shape.inputs == 0
    parts = y
    if shape.splits > 1:
        assert blocks <= ARRIVALS, f"{outputs} outputs in blocks of {shape.outputs}; at most {ARRIVALS} blocks"
        parts = torch.empty(shape.splits, tokens, outputs, dtype=torch.float32, device=x.device)
    _multiply[(blocks, shape.splits)](
        x, weight, bias, y, parts, arrivals(x.device), tokens, outputs, inputs, x.stride(0), weight.stride(0),
        TOKENS=max(triton.next_power_of_2(tokens), NARROWEST), OUTPUTS=shape.outputs, INPUTS=shape.inputs,
        SPLITS=shape.splits, EVEN=even, BIASED=bias is not None, DEPENDENT=dependent, launch_pdl=dependent,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return y
