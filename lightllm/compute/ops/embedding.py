"""Looking up rows of a share of the vocabulary."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    for tokens, rows, hidden, first in [(1, 10, 8, 0), (9, 5, 16, 5), (6, 4, 8, 12)]:
        where = torch.randint(0, 16, (tokens,), device=facts.device)
        yield where, torch.randn(rows, hidden, dtype=facts.dtype, device=facts.device), first


@op(cases=_cases)
def embedding(tokens: Tensor, weight: Tensor, first: int) -> Tensor:
    """weight[tokens - first], and zeros for tokens whose row is not held here.

    tokens [tokens] int64; weight [rows, hidden] holds rows first ... first + rows - 1 of the vocabulary.
    """
    local = tokens - first
    mine = (local >= 0) & (local < len(weight))
    return weight[local.clamp(0, len(weight) - 1)] * mine.unsqueeze(-1)
