"""The product of a weight matrix with each token."""

import torch
import torch.nn.functional as F
from torch import Tensor

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
