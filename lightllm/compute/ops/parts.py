"""Products that are left in parts, and norms that add these up.

A product whose inputs are shared out among programs has to be added up by the last of them, which must find out that it
is, and read what the others have written. Where a norm follows, it can do that as it reads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.norm import add_rms_norm, add_rms_norm_rounded
from lightllm.compute.ops.op import TOLERANCE, Facts, op
from lightllm.compute.ops.per_channel import linear_of_rounded, linear_per_channel

_ROUGH = TOLERANCE | {torch.float32: 1e-4, torch.float16: 6e-2, torch.bfloat16: 6e-2}


def _linear_cases(facts: Facts):
    for tokens, outputs, inputs in [(1, 64, 128), (5, 192, 256), (64, 4096, 512)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        yield x, torch.randn(outputs, inputs, dtype=facts.dtype, device=facts.device) * inputs**-0.5


def _linear_per_channel_cases(facts: Facts):
    for x, weight, scale, _, rounds in linear_per_channel.cases(facts):
        if rounds and len(x):
            yield x, weight, scale


def _rounded_linear_cases(facts: Facts):
    for *tensors, _, dtype in linear_of_rounded.cases(facts):
        if len(tensors[0]):
            yield *tensors, dtype


def _norm_cases(facts: Facts):
    for parts, tokens, width in [(1, 1, 64), (4, 3, 4096), (3, 17, 100)]:
        made = torch.randn(parts, tokens, width, device=facts.device)
        residual, weight = (torch.randn(*n, width, dtype=facts.dtype, device=facts.device) for n in ((tokens,), ()))
        yield made, residual, weight, 1e-5


def _rounded_cases(facts: Facts):
    for arguments in _norm_cases(facts):
        for kind in (torch.float8_e4m3fn, torch.int8):
            yield *arguments, kind


@op(cases=_linear_cases)
def linear_in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """Parts [n, tokens, outputs] float32 whose sum is x W^T, as many as there are. x [tokens, inputs]; weight [outputs,
    inputs]."""
    return F.linear(x, weight)[None].float()


@op(cases=_linear_per_channel_cases, tolerance=_ROUGH)
def linear_per_channel_in_parts(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Parts [n, tokens, outputs] float32 of linear_per_channel, as many as there are. It rounds activations."""
    return linear_per_channel.reference(x, weight, scale, None, True)[None].float()


@op(cases=_rounded_linear_cases, tolerance=_ROUGH)
def linear_of_rounded_in_parts(
    numbers: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """Parts [n, tokens, outputs] float32 of linear_of_rounded, as many as there are."""
    return linear_of_rounded.reference(numbers, x_scale, weight, scale, None, dtype)[None].float()


@op(cases=_norm_cases)
def add_rms_norm_of_parts(parts: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """add_rms_norm, whose x is the sum of parts [n, tokens, width] float32, in the residual's dtype."""
    return add_rms_norm.reference(parts.sum(0).to(residual.dtype), residual, weight, eps)


@op(cases=_rounded_cases, tolerance=TOLERANCE | {torch.float32: 1e-4})
def add_rms_norm_of_parts_rounded(
    parts: Tensor, residual: Tensor, weight: Tensor, eps: float, kind: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """add_rms_norm_rounded, whose x is the sum of parts [n, tokens, width] float32, in the residual's dtype."""
    return add_rms_norm_rounded.reference(parts.sum(0).to(residual.dtype), residual, weight, eps, kind)
