"""Vectors that are made of all hidden states of a prompt, whose chunks are computed step by step."""

import torch
from torch import Tensor

from lightllm.base.config import Pooling
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.state.zeros import zeros


class Pooled:
    """For each row what its prompt has come to so far: the sum of its hidden states, or the first one."""

    def __init__(self, pooling: Pooling, *, rows: int, hidden: int, device: torch.device):
        self._is_mean = pooling == "mean"
        self._kept = zeros((rows + 1, hidden), torch.float32, device)

    def add(self, hidden: Tensor, sequences: Sequences) -> None:
        """hidden [tokens, hidden] of all tokens of a step. A row begins anew with its position 0."""
        start, row = sequences.query_start, sequences.row
        if self._is_mean:
            # One sequence after another, so that a sum does not depend on what else is in the step.
            new = torch.segment_reduce(hidden.float(), "sum", offsets=start.long(), axis=0, unsafe=True)
        else:
            new = hidden.index_select(0, start[:-1]).float()
        before = self._kept.index_select(0, row)
        begins = (sequences.lengths == start.diff()).unsqueeze(-1)
        later = before + new if self._is_mean else before
        self._kept.index_copy_(0, row, torch.where(begins, new, later))

    def of(self, row: Tensor, length: Tensor) -> Tensor:
        """row, length [n] of prompts that are complete -> [n, hidden] float32."""
        kept = self._kept.index_select(0, row)
        return kept / length.unsqueeze(-1) if self._is_mean else kept
