"""Products with weights of 6 bits: floats of three bits of exponent and two of mantissa (E3M2), a scale an output.

Source: arXiv:2401.14112. They have no infinities; the largest is 28, the smallest above zero 1/16. A row of weights is
kept as bytes with the upper four bits of two neighbours each, then bytes with the lower two bits of four.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops import per_channel
from lightllm.compute.ops.experts import mixture
from lightllm.compute.ops.op import TOLERANCE, Facts, op

PACKED = 4  # inputs that share bytes
LARGEST = 28.0
# Bits of these floats stand for the same number in float16, but for a factor of 2 ** 12.
HALF_SCALE = 2.0**12
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}


def _linear_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 64, 128), (7, 24, 100), (0, 8, 16)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        for bias in (None, torch.randn(outputs, dtype=facts.dtype, device=facts.device)):
            yield x, *quantized(torch.randn(outputs, inputs, device=facts.device) * inputs**-0.5), bias


def _expert_cases(facts: Facts):
    for tokens, experts, local, first, hidden, width, top_k in [(1, 4, 4, 0, 32, 64, 2), (9, 8, 3, 4, 64, 24, 3)]:
        choice = torch.stack([torch.randperm(experts, device=facts.device)[:top_k] for _ in range(tokens)])
        gate_up = quantized(torch.randn(local, 2 * width, hidden, device=facts.device) * hidden**-0.5)
        down = quantized(torch.randn(local, hidden, width, device=facts.device) * width**-0.5)
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        yield x, *gate_up, *down, choice, torch.rand(tokens, top_k, device=facts.device), first, x.flip(0)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., n] as bytes [..., 3 n / 4] uint8 and scales [...] float32."""
    scale = scale_of(x)
    return packed(x, scale), scale


def scale_of(x: Tensor) -> Tensor:
    """Of x [..., n]: the largest number / LARGEST."""
    return (x.abs().amax(-1).float() / LARGEST).clamp(min=per_channel.SMALLEST_SCALE)


def packed(x: Tensor, scale: Tensor) -> Tensor:
    """x [..., n] / scale [...] as bytes."""
    numbers = x.float() / scale.unsqueeze(-1)
    step = torch.ldexp(torch.ones_like(numbers), torch.frexp(numbers).exponent.clamp(min=-1) - 3)
    half = (torch.round(numbers / step) * step / HALF_SCALE).half().view(torch.int16).int()
    codes = (half & 0x7FFF) >> 8 | (half < 0).int() << 5
    upper, lower = (codes >> 2).unflatten(-1, (-1, 2)), (codes & 3).unflatten(-1, (-1, PACKED))
    return torch.cat([_joined(upper, 4), _joined(lower, 2)], -1)


def _joined(parts: Tensor, bits: int) -> Tensor:
    """parts [..., n, m] of `bits` bits as bytes [..., n], the first one lowest."""
    return sum((parts[..., i] << bits * i for i in range(parts.shape[-1])), torch.zeros_like(parts[..., 0])).byte()


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The floats [..., n] that bytes and scales stand for, computed in float32."""
    inputs = weight.shape[-1] // 3 * 4
    upper, lower = weight.int().split([inputs // 2, inputs // 4], -1)
    codes = _parts(upper, 4) << 2 | _parts(lower, 2)
    half = ((codes & 31) << 8 | (codes & 32) << 10).to(torch.int16).view(torch.float16)
    return (half.float() * HALF_SCALE * scale.unsqueeze(-1)).to(dtype)


def _parts(joined: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, device=joined.device)
    return ((joined.unsqueeze(-1) >> shifts) & (1 << bits) - 1).flatten(-2)


@op(cases=_linear_cases, tolerance=_TOLERANCE)
def linear_fp6(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias, W being the dequantized weight.

    x [tokens, inputs]; weight [outputs, 3 inputs / 4] uint8; scale [outputs] float32; bias [outputs].
    """
    return F.linear(x, dequantized(weight, scale, x.dtype), bias)


@op(cases=_expert_cases, tolerance=_TOLERANCE)
def gated_experts_fp6(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    """As gated_experts. Weights and scales have a first axis of local experts."""

    def matrices(local: int) -> tuple[Tensor, Tensor]:
        wide = dequantized(gate_up[local], gate_up_scale[local], x.dtype)
        return wide, dequantized(down[local], down_scale[local], x.dtype)

    return mixture(x, choice, share, range(first, first + len(down)), matrices, beside)
