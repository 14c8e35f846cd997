"""The gated feed-forward network."""

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.layers.linear import ColumnLinear, Output, RowLinear, Unfinished
from lightllm.compute.layers.norm import Joining
from lightllm.compute.ops.joined import Weighted
from lightllm.compute.ops.per_channel import Rounded


class GatedMLP(Joining):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, width: int, *, bias: bool = False):
        super().__init__()
        self.gate_up_proj = ColumnLinear(hidden, [Output("gate_proj", width), Output("up_proj", width)], bias=bias)
        self.down_proj = RowLinear(width, [Output("down_proj", hidden)], bias=bias)

    @property
    def rounded_to(self) -> torch.dtype | None:
        return self.gate_up_proj.rounded_to

    def takes_weighted(self, tokens: int) -> bool:
        return self.gate_up_proj.joined(ops.gated_linear_of_weighted, tokens, self.gate_up_proj.in_features) is not None

    def forward(self, x: Tensor | Weighted | Rounded) -> Unfinished:
        gated = self.gate_up_proj.gated_for(self.down_proj, x)
        return self.down_proj.later(gated) if self.leaves_product else self.down_proj(gated)
