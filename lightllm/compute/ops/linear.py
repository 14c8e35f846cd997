"""The product of a weight matrix with each token."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.activation import silu_and_mul
from lightllm.compute.ops.op import TOLERANCE, Facts, op


def _cases(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs, biased in [
        (1, 48, 64, False),
        (3, 100, 130, True),
        (17, 64, 256, False),
        (0, 8, 8, True),
    ]:
        weight = torch.randn(outputs, inputs, **make) * inputs**-0.5
        yield torch.randn(tokens, inputs, **make), weight, torch.randn(outputs, **make) if biased else None


@op(cases=_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W x + b. x [tokens, inputs]; weight [outputs, inputs]; bias [outputs]. Returns [tokens, outputs]."""
    return F.linear(x, weight, bias)


def _sum_cases(facts: Facts):
    for x, weight, _ in _cases(facts):
        yield x, weight, torch.randn(len(x), len(weight) + 8, dtype=facts.dtype, device=facts.device)[:, 8:]


@op(cases=_sum_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def linear_add(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Adds W x to residual [tokens, outputs], in place, and returns it. x, weight: as of linear."""
    return residual.add_(F.linear(x, weight))


@op(cases=_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """silu(G x + b) * (U x + c), where weight [2 * outputs, inputs] is G above U and bias [2 * outputs] b above c.

    x [tokens, inputs]; returns [tokens, outputs].
    """
    return silu_and_mul.reference(F.linear(x, weight, bias))


def _cases_without_bias(facts: Facts):
    yield from ((x, weight) for x, weight, _ in _cases(facts))


@op(cases=_cases_without_bias, tolerance=dict.fromkeys(TOLERANCE, 1e-4))
def logits(x: Tensor, weight: Tensor) -> Tensor:
    """W x in float32, whatever the dtype of both: rounded to 16 bits the largest ones would often be equal.

    x [tokens, inputs]; weight [vocab, inputs]. Returns [tokens, vocab] float32.
    """
    return F.linear(x.float(), weight.float())
