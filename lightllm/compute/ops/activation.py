"""Gated activations."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    for tokens, width in [(1, 64), (7, 250), (0, 8)]:
        yield (torch.randn(tokens, width, dtype=facts.dtype, device=facts.device),)


@op(cases=_cases)
def silu_and_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, where gate_up [tokens, 2 * width] holds gate then up. Returns [tokens, width]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
