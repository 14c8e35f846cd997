"""Products with weights of 8 bits, E4M3 floats or whole numbers, one float32 scale an output.

Where a format says so, activations of 16 bits are rounded to the weights' type before they are multiplied, each token
with a scale of its own; those of 32 bits are not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.activation import silu_and_mul
from lightllm.compute.ops.experts import mixture
from lightllm.compute.ops.op import TOLERANCE, Facts, op

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
SMALLEST_SCALE = 1e-12
GROUP = 64  # of a token's numbers that have one scale where products round what they make
_KINDS = [(torch.float8_e4m3fn, True), (torch.int8, True), (torch.float8_e4m3fn, False), (torch.int8, False)]
# What rounding to 8 bits makes of a difference in the last of 16 bits.
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4, torch.float16: 6e-2, torch.bfloat16: 6e-2}
# Some results are rounded to the next number of 8 bits.
_TOLERANCE_OF_A_STEP = _TOLERANCE | {torch.float16: 0.13, torch.bfloat16: 0.13}


@dataclass(frozen=True, slots=True)
class Rounded:
    """Activations as they are multiplied: numbers [tokens, inputs] of 8 bits, each token's times its scale [tokens]
    float32, or GROUP of them at a time times theirs [groups, tokens]. dtype: what products of them are."""

    numbers: Tensor
    scale: Tensor
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.numbers)


def random_matrix(
    outputs: int, inputs: int, kind: torch.dtype, facts: Facts, *, experts: int | None = None
) -> tuple[Tensor, Tensor]:
    """weight, scale; stacked if there are `experts`."""
    stack = () if experts is None else (experts,)
    return quantized(torch.randn(*stack, outputs, inputs, device=facts.device) * inputs**-0.5, kind)


def _linear_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 128, 256), (7, 48, 80), (40, 64, 144), (0, 16, 32)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        bias = torch.randn(outputs, dtype=facts.dtype, device=facts.device)
        for kind, rounds in _KINDS:
            yield x, *random_matrix(outputs, inputs, kind, facts), bias if rounds else None, rounds


def _rounded_cases(facts: Facts):
    for x, weight, scale, bias, rounds in _linear_cases(facts):
        if rounds:
            yield *quantized(x, weight.dtype), weight, scale, bias, facts.dtype


def _grouped_cases(facts: Facts):
    yield from _rounded_cases(facts)
    for tokens, outputs, inputs in [(1, 128, 128), (7, 48, 320), (40, 64, 64)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        for kind in LARGEST:
            yield *in_groups(x, kind), *random_matrix(outputs, inputs, kind, facts), None, facts.dtype


def _gated_to_groups_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 128, 256), (7, 256, 80), (40, 128, 144)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        bias = torch.randn(outputs, dtype=facts.dtype, device=facts.device)
        for kind in LARGEST:
            yield *quantized(x, kind), *random_matrix(outputs, inputs, kind, facts), bias, facts.dtype


def _expert_cases(facts: Facts):
    for tokens, experts, local, first, hidden, width, top_k in [(1, 4, 4, 0, 32, 64, 2), (9, 8, 3, 4, 64, 48, 3)]:
        choice = torch.stack([torch.randperm(experts, device=facts.device)[:top_k] for _ in range(tokens)])
        share = torch.rand(tokens, top_k, device=facts.device)
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        for kind, rounds in _KINDS:
            gate_up = random_matrix(2 * width, hidden, kind, facts, experts=local)
            down = random_matrix(hidden, width, kind, facts, experts=local)
            yield x, *gate_up, *down, choice, share, first, rounds, x.flip(0)


def quantized(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [..., n] as numbers of `kind` and their scales [...] float32: the largest number / LARGEST."""
    scale = (x.abs().amax(-1).float() / LARGEST[kind]).clamp(min=SMALLEST_SCALE)
    scaled = x.float() / scale.unsqueeze(-1)
    return (scaled if kind.is_floating_point else scaled.round()).to(kind), scale


def in_groups(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x [tokens, n] as numbers of `kind` and the scales of GROUP of them at a time [n / GROUP, tokens] float32."""
    numbers, scale = quantized(x.unflatten(1, (-1, GROUP)), kind)
    return numbers.flatten(1), scale.T


def restored(numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What numbers with either kind of scales stand for. See Rounded."""
    if scale.ndim == 1:
        return dequantized(numbers, scale, dtype)
    return dequantized(numbers.unflatten(1, (-1, GROUP)), scale.T, dtype).flatten(1)


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """weight[i, j] * scale[i], computed in float32 on the way from 8 bits to dtype: no float32 copy is made."""
    # Whole numbers are multiplied as they are; E4M3 is not, but fits into bfloat16.
    wide = weight if weight.dtype == torch.int8 else weight.to(torch.bfloat16)
    return torch.mul(wide, scale.unsqueeze(-1), out=torch.empty(weight.shape, dtype=dtype, device=weight.device))


def rounded(x: Tensor, kind: torch.dtype) -> Tensor:
    """x [tokens, inputs] as it is multiplied."""
    return x if x.dtype == torch.float32 else dequantized(*quantized(x, kind), x.dtype)


@op(cases=_linear_cases, tolerance=_TOLERANCE)
def linear_per_channel(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, rounds: bool) -> Tensor:
    """x W^T + bias, W being the dequantized weight; x is rounded if `rounds`.

    x [tokens, inputs]; weight [outputs, inputs] float8_e4m3fn or int8; scale [outputs] float32; bias [outputs].
    """
    return F.linear(rounded(x, weight.dtype) if rounds else x, dequantized(weight, scale, x.dtype), bias)


@op(cases=_linear_cases, tolerance=_TOLERANCE)
def gated_linear_per_channel(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, rounds: bool) -> Tensor:
    """silu(gate) * up, where linear_per_channel makes gates and then as many others."""
    return silu_and_mul.reference(linear_per_channel.reference(x, weight, scale, bias, rounds))


@op(cases=_grouped_cases, tolerance=_TOLERANCE)
def linear_of_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """linear_per_channel of tokens that were rounded before: see Rounded."""
    return F.linear(restored(numbers, x_scale, dtype), dequantized(weight, scale, dtype), bias)


@op(cases=_rounded_cases, tolerance=_TOLERANCE)
def gated_linear_of_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """gated_linear_per_channel of tokens that were rounded before: see Rounded."""
    return silu_and_mul.reference(linear_of_rounded.reference(numbers, x_scale, weight, scale, bias, dtype))


@op(cases=_gated_to_groups_cases, tolerance=_TOLERANCE_OF_A_STEP)
def gated_linear_rounded(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """gated_linear_of_rounded in numbers of the weight's type and the scales of GROUP of them at a time, which divides
    the outputs: [tokens, outputs / 2], [groups, tokens] float32. x_scale [tokens]."""
    y = gated_linear_of_rounded.reference(numbers, x_scale, weight, scale, bias, dtype)
    return in_groups(y, weight.dtype)


@op(cases=_expert_cases, tolerance=_TOLERANCE)
def gated_experts_per_channel(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    rounds: bool,
    beside: Tensor | None = None,
) -> Tensor:
    """As gated_experts. Weights and scales have a first axis of local experts."""

    def matrices(local: int) -> tuple[Tensor, Tensor]:
        wide = dequantized(gate_up[local], gate_up_scale[local], x.dtype)
        return wide, dequantized(down[local], down_scale[local], x.dtype)

    held = range(first, first + len(down))
    return mixture(x, choice, share, held, matrices, beside, lambda x: rounded(x, gate_up.dtype) if rounds else x)
