"""Causal self-attention with grouped query heads, over keys and values kept token by token."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.layers.batch import Batch
from lightllm.compute.layers.linear import InterleavedQKVLinear, Output, QKVLinear, RowLinear, Unfinished
from lightllm.compute.layers.norm import Joining, RMSNorm
from lightllm.compute.layers.rope import Rope
from lightllm.compute.ops.joined import DIM, Weighted
from lightllm.compute.ops.per_channel import Rounded
from lightllm.compute.state.layer_state import LayerState, TokenPart


class Attention(Joining):
    """o(softmax(rope(q) rope(k)^T / sqrt(dim)) v), q, k and v being projections of x.

    window: each token sees only this many, itself included. head_norm_eps: q and k of each head are normed first.
    qkv_name: the module in which a checkpoint keeps q, k and v, kv head by kv head; None: each in its own.
    """

    keys: Tensor
    values: Tensor
    scales: tuple[Tensor, Tensor] | None

    def __init__(
        self,
        hidden: int,
        heads: int,
        kv_heads: int,
        dim: int,
        rope: Rope,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        window: int | None = None,
        head_norm_eps: float | None = None,
        qkv_name: str | None = None,
    ):
        super().__init__()
        self.dim, self.scale, self.window, self.rope = dim, dim**-0.5, window, rope
        sizes = hidden, heads, kv_heads, dim
        self.qkv_proj = (
            InterleavedQKVLinear(qkv_name, *sizes, bias=qkv_bias) if qkv_name else QKVLinear(*sizes, bias=qkv_bias)
        )
        self.q_norm = RMSNorm(dim, head_norm_eps) if head_norm_eps is not None else None
        self.k_norm = RMSNorm(dim, head_norm_eps) if head_norm_eps is not None else None
        self.head_norm_eps = head_norm_eps or 0.0
        self.o_proj = RowLinear(heads * dim, [Output("o_proj", hidden)], bias=output_bias, unit=dim)

    def state(self) -> LayerState:
        part = TokenPart((self.qkv_proj.local_kv_heads, self.dim), heads_axis=0)
        return LayerState({"keys": part, "values": part})

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        self.keys, self.values = tensors["keys"], tensors["values"]
        are_scaled = "keys_scale" in tensors
        self.scales = (tensors["keys_scale"], tensors["values_scale"]) if are_scaled else None

    @property
    def rounded_to(self) -> torch.dtype | None:
        return self.qkv_proj.rounded_to

    def takes_weighted(self, tokens: int) -> bool:
        return self._joined_matrix(tokens) is not None

    def _joined_matrix(self, tokens: int) -> Tensor | None:
        """The projections, if they, rope and storing are one op for so many tokens."""
        if self.dim != DIM or self.scales is not None:
            return None
        return self.qkv_proj.joined(ops.linear_rotate_store, tokens, self.qkv_proj.in_features)

    def _project(self, x: Tensor | Weighted | Rounded, batch: Batch) -> Tensor:
        """x [tokens, hidden] -> queries [tokens, heads, dim], ready to attend; stores keys and values."""
        how = (
            self.q_norm.weight if self.q_norm is not None else None,
            self.k_norm.weight if self.k_norm is not None else None,
            self.head_norm_eps,
            batch.positions,
            self.rope.table,
            batch.slots,
        )
        if (matrix := self._joined_matrix(len(x))) is not None:
            assert not isinstance(x, Rounded), "formats that round have no plain matrix"
            given = (x.x, x.squares, x.eps) if isinstance(x, Weighted) else (x, None, 0.0)
            return ops.linear_rotate_store(*given, matrix, self.qkv_proj.bias, *how, self.keys, self.values)
        assert not isinstance(x, Weighted), "it was said that it takes none"
        heads = self.qkv_proj.heads(x)
        if self.scales is None:
            return ops.norm_rotate_store(*heads, *how, self.keys, self.values)
        return ops.norm_rotate_store_quantized(*heads, *how, self.keys, self.scales[0], self.values, self.scales[1])

    def forward(self, x: Tensor | Weighted | Rounded, batch: Batch) -> Unfinished:
        """x [tokens, hidden] -> [outputs, hidden]; stores this step's keys and values in the batch's slots."""
        q = self._project(x, batch)
        q, how = batch.outputs(q), (batch.queries(), self.scale, self.window)
        if self.scales is None:
            attended = ops.attend(q, self.keys, self.values, *how)
        else:
            attended = ops.attend_quantized(q, self.keys, self.scales[0], self.values, self.scales[1], *how)
        attended = attended.flatten(1)
        return self.o_proj.later(attended) if self.leaves_product else self.o_proj(attended)
