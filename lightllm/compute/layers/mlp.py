"""The gated feed-forward network."""

from torch import Tensor, nn

from lightllm.compute.layers.linear import ColumnLinear, Output, RowLinear


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden: int, width: int, *, bias: bool = False):
        super().__init__()
        self.gate_up_proj = ColumnLinear(hidden, [Output("gate_proj", width), Output("up_proj", width)], bias=bias)
        self.down_proj = RowLinear(width, [Output("down_proj", hidden)], bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.gate_up_proj.gated(x))
