"""Mixture of experts: choosing experts, and computing with the chosen ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.op import TOLERANCE, Facts, op


def _logit_cases(facts: Facts):
    for tokens, experts, hidden in [(1, 4, 8), (9, 40, 300), (70, 8, 64), (0, 4, 8)]:
        weight = torch.randn(experts, hidden, device=facts.device) * hidden**-0.5
        yield torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device), weight


def _softmax_cases(facts: Facts):
    for tokens, experts, top_k, groups, top_groups in [(1, 4, 2, 1, 1), (9, 8, 3, 1, 1), (5, 12, 4, 4, 2)]:
        logits = torch.randn(1 + tokens // 4, tokens, experts, device=facts.device)
        for renormalize in (False, True):
            yield logits, top_k, groups, top_groups, renormalize, 1.5


def _sigmoid_cases(facts: Facts):
    for logits, top_k, groups, top_groups, renormalize, scale in _softmax_cases(facts):
        bias = torch.randn(logits.shape[2], device=facts.device)
        yield logits, bias, top_k, groups, top_groups, renormalize, scale


def _expert_cases(facts: Facts):
    for tokens, experts, local, first, hidden, width, top_k in [(1, 4, 4, 0, 8, 16, 2), (9, 8, 3, 4, 16, 8, 3)]:
        make = {"dtype": facts.dtype, "device": facts.device}
        choice = torch.stack([torch.randperm(experts, device=facts.device)[:top_k] for _ in range(tokens)])
        share = torch.rand(tokens, top_k, device=facts.device)
        gate_up = torch.randn(local, 2 * width, hidden, **make) * hidden**-0.5
        down = torch.randn(local, hidden, width, **make) * width**-0.5
        x, beside = torch.randn(2, tokens, hidden, **make)
        yield x, gate_up, down, choice, share, first, None if tokens == 1 else beside


def _keep_groups(scores: Tensor, group_scores: Tensor, top_groups: int) -> Tensor:
    """`scores` [tokens, experts] with -inf outside each token's best groups. group_scores [tokens, groups]."""
    best = group_scores.topk(top_groups, dim=-1).indices
    dropped = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, best, False)
    return scores.masked_fill(dropped.repeat_interleave(scores.shape[1] // group_scores.shape[1], 1), float("-inf"))


@op(cases=_logit_cases)
def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """W x in float32, as a near tie must not hang on rounding.

    x [tokens, hidden]; weight [experts, hidden] float32. Returns [parts, tokens, experts] float32, as many parts as an
    implementation makes, whose sum is meant: who chooses by them reads them anyway.
    """
    return F.linear(x.float(), weight)[None]


@op(cases=_softmax_cases)
def route_softmax(
    logits: Tensor, top_k: int, groups: int, top_groups: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The top_k experts by softmax(logits) within the top_groups groups of the likeliest experts.

    logits [parts, tokens, experts] float32, as of router_logits; groups are runs of experts / groups. Returns choice
    [tokens, top_k] int64 and share [tokens, top_k] float32: the probabilities, made to sum to 1 if `renormalize`,
    times `scale`.
    """
    probabilities = logits.sum(0).softmax(-1)
    candidates = probabilities
    if groups > 1:
        candidates = _keep_groups(probabilities, probabilities.unflatten(1, (groups, -1)).amax(-1), top_groups)
    share, choice = candidates.topk(top_k, dim=-1)
    if renormalize:
        share = share / share.sum(-1, keepdim=True)
    return choice, share * scale


@op(cases=_sigmoid_cases)
def route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, groups: int, top_groups: int, renormalize: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The top_k experts by sigmoid(logits) + bias; the bias steers the choice only.

    A group counts by the sum of its two best. bias [experts] float32; all else as route_softmax.
    Source: arXiv:2412.19437 section 2.1.2.
    """
    scores = logits.sum(0).sigmoid()
    candidates = scores + bias
    if groups > 1:
        candidates = _keep_groups(candidates, candidates.unflatten(1, (groups, -1)).topk(2).values.sum(-1), top_groups)
    choice = candidates.topk(top_k, dim=-1).indices
    share = scores.gather(1, choice)
    if renormalize:
        share = share / (share.sum(-1, keepdim=True) + 1e-20)
    return choice, share * scale


@op(cases=_expert_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def gated_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    """beside + sum over chosen experts e of share * down[e] (silu(gate[e] x) * up[e] x); experts not held add zero.

    x [tokens, hidden]; gate_up [local experts, 2 * width, hidden]; down [local experts, hidden, width];
    choice, share [tokens, top_k] (choice numbers all experts); first: number of the first local expert.
    beside [tokens, hidden]: what experts that every token has computed, if there are any.
    """
    held = range(first, first + len(down))
    return mixture(x, choice, share, held, lambda local: (gate_up[local], down[local]), beside)


def mixture(
    x: Tensor,
    choice: Tensor,
    share: Tensor,
    held: range,
    matrices: Callable[[int], tuple[Tensor, Tensor]],
    beside: Tensor | None,
    rounded: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """gated_experts, the reference whatever the format: `matrices(i)` gives the two of expert held[i], and `rounded`
    is what a format does to the inputs of a product."""
    out = torch.zeros_like(x, dtype=torch.float32)
    if beside is not None:
        out += beside
    for local, expert in enumerate(held):
        token, rank = (choice == expert).nonzero(as_tuple=True)
        if len(token):
            wide, narrow = matrices(local)
            gate, up = (rounded(x[token]) @ wide.T).chunk(2, -1)
            inner = rounded(F.silu(gate) * up)
            out.index_add_(0, token, (inner @ narrow.T) * share[token, rank, None])
    return out.to(x.dtype)
