# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Choosing experts. Suffixes: E experts, I inputs of a tile, T tokens; G groups, P experts of a group, K choices."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import (
    begin,
    cdiv,
    depends,
    let_next_start,
    next_power_of_2,
    padded,
    wait,
    why_not,
)

MOST_JOINED = 16  # parts of logits that are read at once
EXPERTS_A_WARP = 256
NONE = tl.constexpr(1 << 30)  # more than any expert's number
LEAST = tl.constexpr(-(1 << 31))  # of integers that stand for floats


@dataclass(frozen=True)
class Shape:
    """Launch parameters. programs: at most so many, each with one of at most `parts` parts of the inputs where blocks
    are fewer."""

    experts: int
    tokens: int
    inputs: int
    warps: int
    stages: int
    programs: int
    parts: int


@triton.jit
def _product(weight_EI, x_TI):
    """W x, computed as in float32, of which three bfloat16 numbers are the sum."""
    if x_TI.dtype == tl.bfloat16:
        high_EI = weight_EI.to(tl.bfloat16)
        rest_EI = weight_EI - high_EI.to(tl.float32)
        middle_EI = rest_EI.to(tl.bfloat16)
        low_EI = (rest_EI - middle_EI.to(tl.float32)).to(tl.bfloat16)
        # Each by itself, so that none waits for another.
        return tl.dot(high_EI, x_TI.T) + (tl.dot(middle_EI, x_TI.T) + tl.dot(low_EI, x_TI.T))
    return tl.dot(weight_EI, x_TI.to(tl.float32).T, input_precision="tf32x3")


@triton.jit(do_not_specialize=["tokens"])
def _score(
    x, weight, parts, tokens, experts, hidden, x_stride,
    TOKENS: tl.constexpr, EXPERTS: tl.constexpr, INPUTS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """EXPERTS of the matrix's rows by TOKENS tokens, over one of as many parts of the inputs as axis 1 has programs.

    The first tile of the matrix is asked for before the wait for x, the others one tile ahead.
    """
    let_next_start(DEPENDENT)
    split, splits = tl.program_id(1), tl.num_programs(1)
    expert_E = tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS)
    token_T = tl.program_id(2) * TOKENS + tl.arange(0, TOKENS)
    is_expert_E, is_token_T = expert_E < experts, token_T < tokens
    tiles, index_I = tl.cdiv(hidden, INPUTS), tl.arange(0, INPUTS)
    first, end = split * tiles // splits, (split + 1) * tiles // splits
    weight_EI = weight + expert_E[:, None] * hidden + index_I[None, :]
    x_TI = x + token_T.to(tl.int64)[:, None] * x_stride + index_I[None, :]
    is_here_I = first * INPUTS + index_I < hidden
    tile_EI = tl.load(weight_EI + first * INPUTS, mask=is_expert_E[:, None] & is_here_I[None, :], other=0.0)
    sum_ET = tl.zeros([EXPERTS, TOKENS], tl.float32)
    wait(DEPENDENT)
    for tile in range(first, end):
        is_here_I = tile * INPUTS + index_I < hidden
        tile_TI = tl.load(x_TI + tile * INPUTS, mask=is_token_T[:, None] & is_here_I[None, :], other=0.0)
        is_next_I = ((tile + 1) * INPUTS + index_I < hidden) & (tile + 1 < end)
        next_EI = tl.load(weight_EI + (tile + 1) * INPUTS, mask=is_expert_E[:, None] & is_next_I[None, :], other=0.0)
        # Added here, as the matrix unit drops bits of long sums.
        sum_ET += _product(tile_EI, tile_TI)
        tile_EI = next_EI
    to_ET = parts + (split * tokens + token_T[None, :]) * experts + expert_E[:, None]
    tl.store(to_ET, sum_ET, mask=is_expert_E[:, None] & is_token_T[None, :])


def shape_for(tokens: int) -> Shape:
    """Source: docs/performance-log.md."""
    if tokens <= 64:
        return Shape(16, padded(tokens), 128, 4, 2, 512, 32)
    return Shape(64, 64, 64, 4, 3, 264, 16)


@ops.router_logits.implementation("triton", why_not)
def router_logits(x: Tensor, weight: Tensor, *, shape: Shape | None = None) -> Tensor:
    (tokens, hidden), experts = x.shape, len(weight)
    x = x if x.stride(1) == 1 else x.contiguous()
    shape, dependent = shape or shape_for(tokens), depends(x.device)
    blocks, rows = cdiv(experts, shape.experts), cdiv(tokens, shape.tokens)
    # As many tiles for every program, but for the last ones.
    tiles, most = cdiv(hidden, shape.inputs), shape.programs // max(blocks * rows, 1)
    splits = cdiv(tiles, cdiv(tiles, min(max(most, 1), shape.parts)))
    parts = torch.empty(splits, tokens, experts, dtype=torch.float32, device=x.device)
    if tokens:
        _score[(blocks, splits, rows)](
            x, weight, parts, tokens, experts, hidden, x.stride(0),
            TOKENS=shape.tokens, EXPERTS=shape.experts, INPUTS=shape.inputs, DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=shape.warps, num_stages=shape.stages,
        )  # fmt: skip
    return parts


@triton.jit
def _first_of(candidate, value, number):
    """The lowest `number` of those candidates that are `value`."""
    return tl.min(tl.where(candidate == value, number, NONE))


@triton.jit
def _ordered(x):
    """Integers in the order of floats: a warp finds the largest of integers in one instruction."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.maximum(bits ^ ((bits >> 31) & 0x7FFFFFFF), LEAST + 1)


@triton.jit(do_not_specialize=["parts"])
def _route(
    logits, bias, choice, share, parts, experts, scale,
    SIGMOID: tl.constexpr, RENORMALIZE: tl.constexpr, TOP_K: tl.constexpr, GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr, WIDE_K: tl.constexpr, WIDE_G: tl.constexpr, WIDE_P: tl.constexpr,
    JOINED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """A token's choices, all in registers. WIDE_*: powers of two that hold choices, groups and a group's experts.

    logits: in `parts` parts, of which JOINED are read at once. One that is not a number makes the token's shares none.
    """
    token = tl.program_id(0).to(tl.int64)
    index_G, index_P, index_K = tl.arange(0, WIDE_G), tl.arange(0, WIDE_P), tl.arange(0, WIDE_K)
    width = experts // GROUPS
    expert_GP = index_G[:, None] * width + index_P[None, :]
    is_expert_GP = (index_G < GROUPS)[:, None] & (index_P < width)[None, :]
    begin(DEPENDENT)
    logit_GP = tl.zeros([WIDE_G, WIDE_P], tl.float32)
    for start in range(0, parts, JOINED):
        for number in tl.static_range(JOINED):
            from_GP = logits + ((start + number) * tl.num_programs(0) + token) * experts + expert_GP
            logit_GP += tl.load(from_GP, mask=is_expert_GP & (start + number < parts), other=0.0)
    logit_GP = tl.where(is_expert_GP, logit_GP, float("-inf"))
    if SIGMOID:
        score_GP = 1.0 / (1.0 + tl.exp(-logit_GP))
        candidate_GP = score_GP + tl.load(bias + expert_GP, mask=is_expert_GP, other=0.0).to(tl.float32)
        candidate_GP = tl.where(is_expert_GP, candidate_GP, float("-inf"))
    else:
        power_GP = tl.exp(logit_GP - tl.max(logit_GP))
        score_GP = power_GP / tl.sum(power_GP)
        candidate_GP = tl.where(is_expert_GP, score_GP, float("-inf"))
    if GROUPS > 1:
        best_G = tl.max(candidate_GP, axis=1)
        if SIGMOID:
            # A group counts by its two best.
            number_GP = tl.where(candidate_GP == best_G[:, None], index_P[None, :], NONE)
            others_GP = tl.where(tl.min(number_GP, axis=1)[:, None] == index_P[None, :], float("-inf"), candidate_GP)
            best_G += tl.max(others_GP, axis=1)
        is_kept_G = index_G < 0
        for _ in tl.static_range(TOP_GROUPS):
            is_next_G = index_G == _first_of(best_G, tl.max(best_G, axis=0), index_G)
            is_kept_G = is_kept_G | is_next_G
            best_G = tl.where(is_next_G, float("-inf"), best_G)
        candidate_GP = tl.where(is_kept_G[:, None], candidate_GP, float("-inf"))
    order_GP = tl.where(is_expert_GP, _ordered(candidate_GP), LEAST)
    bits_GP = score_GP.to(tl.int32, bitcast=True)
    choice_K = tl.full([WIDE_K], NONE, tl.int32)
    share_K = tl.zeros([WIDE_K], tl.float32)
    for number in tl.static_range(TOP_K):
        chosen = _first_of(order_GP, tl.max(order_GP), expert_GP)
        is_chosen_GP = (expert_GP == chosen) & is_expert_GP
        # One of these is not zero, so their sum as integers has its bits.
        bits = tl.sum(tl.where(is_chosen_GP, bits_GP, 0))
        choice_K = tl.where(index_K == number, chosen, choice_K)
        share_K = tl.where(index_K == number, bits.to(tl.float32, bitcast=True), share_K)
        order_GP = tl.where(is_chosen_GP, LEAST, order_GP)
    if RENORMALIZE:
        share_K = share_K / (tl.sum(share_K, axis=0) + (1e-20 if SIGMOID else 0.0))
    tl.store(choice + token * TOP_K + index_K, choice_K.to(tl.int64), mask=index_K < TOP_K)
    tl.store(share + token * TOP_K + index_K, share_K * scale, mask=index_K < TOP_K)


@ops.route_softmax.implementation("triton", why_not)
def route_softmax(
    logits: Tensor, top_k: int, groups: int, top_groups: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _launch(logits, None, top_k, groups, top_groups, renormalize, scale)


@ops.route_sigmoid.implementation("triton", why_not)
def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, groups: int, top_groups: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _launch(logits, bias, top_k, groups, top_groups, renormalize, scale)


def _launch(
    logits: Tensor, bias: Tensor | None, top_k: int, groups: int, top_groups: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    logits = logits.contiguous()
    parts, tokens, experts = logits.shape
    choice = torch.empty(tokens, top_k, dtype=torch.int64, device=logits.device)
    share = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    dependent, wide = depends(logits.device), next_power_of_2
    if tokens:
        _route[(tokens,)](
            logits, bias, choice, share, parts, experts, scale,
            SIGMOID=bias is not None, RENORMALIZE=renormalize, TOP_K=top_k, GROUPS=groups, TOP_GROUPS=top_groups,
            WIDE_K=wide(top_k), WIDE_G=wide(groups), WIDE_P=wide(experts // groups),
            JOINED=1 if parts == 1 else MOST_JOINED, DEPENDENT=dependent,
            launch_pdl=dependent, num_warps=min(max(wide(experts) // EXPERTS_A_WARP, 1), 4),
        )  # fmt: skip
    return choice, share
