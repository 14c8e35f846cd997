"""Multi-head latent attention: of each token one small latent vector is kept for all heads.

Source: arXiv:2405.04434 section 2.1. Whether keys and values are ever expanded from latents is up to ops.attend_latent.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from lightllm.compute import ops
from lightllm.compute.layers.batch import Batch
from lightllm.compute.layers.layer import Site
from lightllm.compute.layers.linear import ColumnLinear, Linear, Output, RowLinear
from lightllm.compute.layers.norm import RMSNorm
from lightllm.compute.layers.rope import Rope
from lightllm.compute.state.layer_state import LayerState, TokenPart
from lightllm.compute.weights.weight import Declared

LATENT_NORM_EPS = 1e-6  # the published models norm latents with this, whatever their rms_norm_eps


class LatentExpansion(ColumnLinear):
    """kv_b_proj: latent -> each head's key (without position) and value, kept as two stacks of matrices.

    key [local heads, key_dim, latent]; value [local heads, value_dim, latent].
    """

    key: Tensor
    value: Tensor

    def __init__(self, latent: int, heads: int, key_dim: int, value_dim: int):
        super().__init__(latent, [Output("kv_b_proj", heads * (key_dim + value_dim), key_dim + value_dim)])
        self.sizes = [key_dim, value_dim]

    def place(self, site: Site) -> Mapping[str, Declared]:
        self.dtype = site.dtype
        return super().place(site)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        heads = self.method.dense(tensors, self.dtype).unflatten(0, (-1, sum(self.sizes)))
        self.key, self.value = (part.contiguous() for part in heads.split(self.sizes, dim=1))


class LatentAttention(nn.Module):
    """Queries of two parts, one that meets the latents and one that turns with its position.

    query_rank None: queries are projected straight from x. scale multiplies the scores.
    """

    latents: Tensor
    latents_scale: Tensor | None

    def __init__(
        self,
        hidden: int,
        heads: int,
        rope: Rope,
        *,
        key_dim: int,
        value_dim: int,
        latent: int,
        query_rank: int | None,
        scale: float,
        bias: bool = False,
    ):
        super().__init__()
        self.rope, self.scale = rope, scale
        self.query_parts, self.width = [key_dim, rope.dim], latent + rope.dim
        dim = key_dim + rope.dim
        compressed = Output("kv_a_proj_with_mqa", self.width)
        if query_rank is None:
            self.q_proj = ColumnLinear(hidden, [Output("q_proj", heads * dim, dim)])
            self.kv_a_proj_with_mqa = Linear(hidden, [compressed], bias=bias)
        else:
            self.qkv_a_proj = Linear(hidden, [Output("q_a_proj", query_rank), compressed], bias=bias)
            self.q_a_layernorm = RMSNorm(query_rank, LATENT_NORM_EPS)
            self.q_b_proj = ColumnLinear(query_rank, [Output("q_b_proj", heads * dim, dim)])
        self.query_rank = query_rank
        self.kv_a_layernorm = RMSNorm(latent, LATENT_NORM_EPS)
        self.kv_b_proj = LatentExpansion(latent, heads, key_dim, value_dim)
        self.o_proj = RowLinear(heads * value_dim, [Output("o_proj", hidden)], bias=bias, unit=value_dim)

    def state(self) -> LayerState:
        return LayerState({"latents": TokenPart((self.width,), heads_axis=None)})

    def bind(self, tensors: Mapping[str, Tensor]) -> None:
        self.latents, self.latents_scale = tensors["latents"], tensors.get("latents_scale")

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [tokens, hidden] -> queries [tokens, local heads * dim], compressed [tokens, latent + rope dim]."""
        if self.query_rank is None:
            return self.q_proj(x), self.kv_a_proj_with_mqa(x)
        q, compressed = self.qkv_a_proj(x).split([self.query_rank, self.width], dim=-1)
        return self.q_b_proj(self.q_a_layernorm(q)), compressed

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x [tokens, hidden] -> [outputs, hidden]; stores this step's latents in the batch's slots."""
        q, compressed = self.project(x)
        fixed, turning = q.unflatten(-1, (-1, sum(self.query_parts))).split(self.query_parts, dim=-1)
        given = (
            turning,
            compressed,
            self.kv_a_layernorm.weight,
            LATENT_NORM_EPS,
            batch.positions,
            self.rope.table,
            batch.slots,
            self.latents,
        )
        if self.latents_scale is None:
            turning = ops.norm_rotate_store_latent(*given)
        else:
            turning = ops.norm_rotate_store_latent_quantized(*given, self.latents_scale)
        queries = batch.outputs(fixed), batch.outputs(turning), self.kv_b_proj.key, self.kv_b_proj.value
        if self.latents_scale is None:
            attended = ops.attend_latent(*queries, self.latents, batch.queries(), self.scale)
        else:
            pool = self.latents, self.latents_scale
            attended = ops.attend_latent_quantized(*queries, *pool, batch.queries(), self.scale)
        return self.o_proj(attended.flatten(1))
