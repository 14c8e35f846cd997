"""Arguments for ops that only kernels find awkward: sizes around their tiles, views, shares of a vocabulary."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from lightllm.compute.ops.op import Facts

Cases = Callable[[Facts], Iterable[tuple[Any, ...]]]


def attention(
    facts: Facts,
    queries: Sequence[int],
    lengths: Sequence[int],
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    window: int | None = None,
) -> tuple[Any, ...]:
    """Arguments of ops.attend for sequences that run `queries` tokens on contexts of `lengths`, decodes first."""
    make = {"dtype": facts.dtype, "device": facts.device}
    decodes = next((i for i, count in enumerate(queries) if count > 1), len(queries))
    rows, width = len(lengths) + 1, max(lengths) + 1
    table = torch.randperm(rows * width, device=facts.device).view(rows, width).to(torch.int32)
    row = torch.randperm(rows, device=facts.device)[: len(lengths)]
    start = torch.tensor([0, *queries], device=facts.device).cumsum(0).to(torch.int32)
    known = torch.tensor(lengths, dtype=torch.int32, device=facts.device)
    pool = torch.randn(2, rows * width, kv_heads, dim, **make)
    q = torch.randn(sum(queries), heads, dim, **make)
    hints = (decodes, list(queries[decodes:]), list(lengths[decodes:]), max(lengths), {})
    return q, pool[0], pool[1], table, row, start, known, dim**-0.5, window, *hints


def _attend(facts: Facts):
    for dim in (64, 80, 96, 128, 192, 256):
        yield attention(facts, [1, 1, 40], [70, 33, 64], heads=8, kv_heads=2, dim=dim)
    yield attention(facts, [1, 1, 2, 1], [129, 1, 130, 1], heads=7, kv_heads=1, dim=64, window=64)
    yield attention(facts, [33], [97], heads=16, kv_heads=1, dim=64, window=32)


def _norm(facts: Facts):
    wide = torch.randn(5, 3, 300, dtype=facts.dtype, device=facts.device)
    yield wide[..., 20:290], torch.randn(270, dtype=facts.dtype, device=facts.device), 1e-5


def _silu_and_mul(facts: Facts):
    yield (torch.randn(3, 4100, dtype=facts.dtype, device=facts.device)[:, 2:],)


def _linear(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs in [(2, 33, 300), (64, 96, 512), (65, 40, 64)]:
        weight = torch.randn(outputs, inputs + 8, **make)[:, :inputs] * inputs**-0.5
        yield torch.randn(tokens, inputs + 8, **make)[:, 8:], weight, torch.randn(outputs, **make)


CASES: dict[str, Cases] = defaultdict(
    lambda: lambda facts: (),
    {"attend": _attend, "rms_norm": _norm, "silu_and_mul": _silu_and_mul, "linear": _linear},
)
