"""Products joined with what stands beside them in a decoder block, so that a block is fewer kernels.

A norm needs all numbers of a token before it can scale one. A product that adds them therefore writes them without
the scale, and beside them sums of squares; the product that follows scales what it has summed, which is the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.activation import silu_and_mul
from lightllm.compute.ops.op import TOLERANCE, Facts, op
from lightllm.compute.ops.rope import norm_rotate_store

MOST_TOKENS = 128
PART = 128  # numbers of a token whose squares are summed; it divides the width
DIM = 128  # numbers of a head


@dataclass(frozen=True, slots=True)
class Weighted:
    """A norm that lacks its scales: rms_norm of a token t is x[t] / sqrt(squares[:, t].sum() / width + eps).

    x [tokens, width]; squares [width / PART, tokens] float32.
    """

    x: Tensor
    squares: Tensor
    eps: float

    def __len__(self) -> int:
        return len(self.x)


def random_sum(facts: Facts, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """x and squares of Weighted that belong together."""
    total = torch.randn(tokens, width, dtype=facts.dtype, device=facts.device) * 3
    weight = torch.randn(width, dtype=facts.dtype, device=facts.device)
    return total * weight, _squares(total)


def _squares(total: Tensor) -> Tensor:
    return total.float().unflatten(1, (-1, PART)).square().sum(-1).T.contiguous()


def _scaled(x: Tensor, squares: Tensor | None, eps: float) -> Tensor:
    """What Weighted describes; without squares x as it is."""
    if squares is None:
        return x
    scale = torch.rsqrt(squares.sum(0) / x.shape[1] + eps)
    return (x.float() * scale[:, None]).to(x.dtype)


def _add_cases(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, width, inputs in [(1, 128, 64), (3, 384, 136), (17, 256, 512), (100, 128, 1024)]:
        weight, residual = torch.randn(width, inputs, **make) * inputs**-0.5, torch.randn(tokens, width + 8, **make)
        yield torch.randn(tokens, inputs, **make), weight, residual[:, :width], torch.randn(width, **make)


def _gate_cases(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs, biased in [(1, 48, 128, False), (19, 100, 256, True), (100, 64, 640, False)]:
        weight = torch.randn(2 * outputs, inputs, **make) * inputs**-0.5
        yield *random_sum(facts, tokens, inputs), 1e-5, weight, torch.randn(2 * outputs, **make) if biased else None


_ROTATED = ((1, 4, 2, 256, True), (7, 3, 1, 128, False), (80, 2, 2, 640, True))


def rotate_cases(facts: Facts, sizes: Iterable[tuple[int, int, int, int, bool]] = _ROTATED):
    """sizes: tokens, heads, kv heads, inputs, and whether heads are normed."""
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, heads, kv_heads, inputs, normed in sizes:
        outputs = (heads + 2 * kv_heads) * DIM
        weight = torch.randn(outputs, inputs, **make) * inputs**-0.5
        bias = None if normed else torch.randn(outputs, **make)
        x, squares = random_sum(facts, tokens, inputs)
        angles = torch.rand(20, DIM // 2, device=facts.device) * 6
        pool = max(200, tokens)
        yield (
            x,
            squares if 1 < tokens <= MOST_TOKENS else None,
            1e-5,
            weight,
            bias,
            *(torch.randn(DIM, **make) if normed else None for _ in "qk"),
            1e-6,
            torch.randint(0, 20, (tokens,), device=facts.device),
            torch.cat([angles.cos(), angles.sin()], dim=-1),
            torch.randperm(pool, device=facts.device)[:tokens],
            *torch.zeros(2, pool, kv_heads, DIM, **make),
        )


@op(cases=_add_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def linear_add_weigh(x: Tensor, weight: Tensor, residual: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x, squares) of Weighted, and the sum itself, of residual + W x.

    x [tokens, inputs], at most MOST_TOKENS tokens; weight [width, inputs]; residual [tokens, width]; norm_weight
    [width]. PART divides the width.
    """
    total = residual + F.linear(x, weight)
    return total * norm_weight, _squares(total), total


@op(cases=_gate_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def gated_linear_of_weighted(x: Tensor, squares: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """ops.gated_linear of what Weighted(x, squares, eps) describes, of at most MOST_TOKENS tokens."""
    return silu_and_mul.reference(F.linear(_scaled(x, squares, eps), weight, bias))


@op(cases=rotate_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def linear_rotate_store(
    x: Tensor,
    squares: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    head_eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """ops.norm_rotate_store of the queries, keys and values that a product makes.

    x, squares, eps are as in Weighted, of at most MOST_TOKENS tokens; where there are no squares x is multiplied as it
    is, and may have any number of tokens. weight [outputs, inputs],
    with DIM outputs for each head of q, k and v. Returns queries [tokens, heads, DIM].
    """
    heads = F.linear(_scaled(x, squares, eps), weight, bias).unflatten(1, (-1, DIM))
    kv_heads = keys.shape[1]
    q, k, v = heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    return norm_rotate_store.reference(q, k, v, q_weight, k_weight, head_eps, positions, table, slots, keys, values)
