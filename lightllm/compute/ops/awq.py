"""Products with 4-bit weights, a scale and a zero point for each output and group of inputs, packed as AutoAWQ does.

Source: arXiv:2306.00978. Eight outputs share an int32; output i of the eight is its nibble NIBBLE[i].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.experts import mixture
from lightllm.compute.ops.op import TOLERANCE, Facts, op

PACKED = 8
NIBBLE = (0, 4, 1, 5, 2, 6, 3, 7)
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}


def random_matrix(outputs: int, inputs: int, facts: Facts, *, experts: int | None = None) -> tuple[Tensor, ...]:
    """weight, zeros, scales, group_of a random matrix whose first group is cut; stacked if there are `experts`."""
    group_of = torch.arange(8, 8 + inputs, device=facts.device) // 32
    groups, stack = int(group_of[-1]) + 1, () if experts is None else (experts,)
    weight, zeros = (
        torch.randint(-(1 << 31), (1 << 31) - 1, (*stack, size, outputs // PACKED), device=facts.device).to(torch.int32)
        for size in (inputs, groups)
    )
    scales = (torch.rand(*stack, groups, outputs, device=facts.device) + 0.5) * 0.1 * inputs**-0.5
    return weight, zeros, scales, group_of


def _linear_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 64, 128), (7, 24, 104)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        for bias in (None, torch.randn(outputs, dtype=facts.dtype, device=facts.device)):
            yield x, *random_matrix(outputs, inputs, facts), bias


def _expert_cases(facts: Facts):
    for tokens, experts, local, first, hidden, width, top_k in [(1, 4, 4, 0, 32, 64, 2), (9, 8, 3, 4, 64, 24, 3)]:
        choice = torch.stack([torch.randperm(experts, device=facts.device)[:top_k] for _ in range(tokens)])
        gate_up = random_matrix(2 * width, hidden, facts, experts=local)
        down = random_matrix(hidden, width, facts, experts=local)
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        yield x, *gate_up, *down, choice, torch.rand(tokens, top_k, device=facts.device), first, x.flip(0)


def unpacked(packed: Tensor) -> Tensor:
    """packed [n, outputs / 8] int32 -> [n, outputs] of 0 ... 15."""
    shifts = torch.tensor(NIBBLE, dtype=torch.int32, device=packed.device) * 4
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(-2)


def dequantized(weight: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor, dtype: torch.dtype) -> Tensor:
    """(weight[j, i] - zeros[group_of[j], i]) * scales[group_of[j], i]: [outputs, inputs] of `dtype`."""
    return ((unpacked(weight) - unpacked(zeros)[group_of]) * scales[group_of]).T.to(dtype)


@op(cases=_linear_cases, tolerance=_TOLERANCE)
def linear_awq(
    x: Tensor, weight: Tensor, zeros: Tensor, scales: Tensor, group_of: Tensor, bias: Tensor | None
) -> Tensor:
    """x W^T + bias, W being the dequantized weight.

    x [tokens, inputs]; weight [inputs, outputs / 8], zeros [groups, outputs / 8] int32;
    scales [groups, outputs] float32; group_of [inputs] int64; bias [outputs].
    """
    return F.linear(x, dequantized(weight, zeros, scales, group_of, x.dtype), bias)


@op(cases=_expert_cases, tolerance=_TOLERANCE)
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
    """As gated_experts. Weights, zeros and scales have a first axis of local experts; groups are the same for all,
    or have it too."""
    gate_up_groups, down_groups = (groups.expand(len(down), -1) for groups in (gate_up_group_of, down_group_of))

    def matrices(local: int) -> tuple[Tensor, Tensor]:
        wide = dequantized(gate_up[local], gate_up_zeros[local], gate_up_scales[local], gate_up_groups[local], x.dtype)
        return wide, dequantized(down[local], down_zeros[local], down_scales[local], down_groups[local], x.dtype)

    return mixture(x, choice, share, range(first, first + len(down)), matrices, beside)
