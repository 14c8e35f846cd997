"""Linear layers. Models give global sizes; `place` turns them into this rank's share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.ops.joined import PART, Weighted
from lightllm.compute.ops.op import Op
from lightllm.compute.ops.per_channel import Rounded
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.quant.method import LeavesParts, LinearMethod, TakesRounded
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.weights.share import Share, divided, whole
from lightllm.compute.weights.weight import Declared, Matrix, Part, Run, Weight


@dataclass(frozen=True)
class Output:
    """Outputs that the checkpoint keeps under a name of their own; shared among ranks in units of `unit`.

    copies: with fewer units than ranks, neighbouring ranks may hold copies of one unit.
    """

    name: str
    size: int
    unit: int = 1
    copies: bool = False


class Projection(nn.Module):
    """What all linear layers share: global sizes now, this rank's tensors after `place`."""

    method: LinearMethod
    matrix: Matrix
    tensors: Mapping[str, Tensor]
    rounded_to: torch.dtype | None  # what `product` and `gated` take as Rounded, too

    def __init__(self, in_features: int, outputs: Sequence[Output], *, bias: bool = False, unit: int = 1):
        super().__init__()
        self.in_features, self.outputs, self.has_bias, self.unit = in_features, tuple(outputs), bias, unit
        self.group = Group()
        self.bias: Tensor | None = None

    def local_outputs(self, output: Output) -> Share:
        """Which of these outputs this rank computes."""
        return whole(output.size)

    def local_inputs(self) -> Share:
        """Which of the inputs this rank has."""
        return whole(self.in_features)

    def runs(self, site: Site) -> list[Run]:
        """Where the checkpoint keeps this rank's outputs, in the order in which they are computed."""
        return [Run(site.beside(output.name), self.local_outputs(output)) for output in self.outputs]

    def place(self, site: Site) -> Mapping[str, Declared]:
        self.group = site.mesh.tensor
        runs = self.runs(site)
        self.matrix = Matrix(tuple(runs), self.local_inputs())
        method = self.method = one_method([run.module for run in runs], site)
        self.rounded_to = method.rounded_to(site.dtype) if isinstance(method, TakesRounded) else None
        declared = dict(self.method.declare(self.matrix))
        if self.has_bias:
            declared["bias"] = Weight(
                tuple(Part(f"{run.module}.bias", (run.share.size,), (run.share.window,)) for run in runs)
            )
        return declared

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.bias = tensors.get("bias")
        self.tensors = self.method.arranged(self.matrix, tensors)

    def joined(self, op: Op[..., Any], tokens: int, width: int) -> Tensor | None:
        """The matrix, where this op of ops.joined is how to multiply it by so many tokens. width: of the norm."""
        is_able = tokens > 0 and width % PART == 0 and isinstance(self.method, Unquantized)
        return self.tensors["weight"] if is_able and op.pays(tokens, width) else None

    def product(self, x: Tensor | Rounded) -> Tensor:
        """x [tokens, local inputs] -> W x + b [tokens, local outputs]."""
        return self.multiplied(x, self.bias)

    def multiplied(self, x: Tensor | Rounded, bias: Tensor | None) -> Tensor:
        """As product, with another bias or none."""
        if isinstance(x, Rounded):
            assert isinstance(self.method, TakesRounded), "rounded_to says so"
            return self.method.multiply_rounded(self.tensors, x, bias)
        return self.method.multiply(self.tensors, x, bias)

    def gated(self, x: Tensor | Weighted | Rounded) -> Tensor:
        """silu(gate) * up, where the product is gate then up: [tokens, local inputs] -> [tokens, local outputs / 2]."""
        if isinstance(x, Weighted):
            return ops.gated_linear_of_weighted(x.x, x.squares, x.eps, self.tensors["weight"], self.bias)
        if isinstance(x, Rounded):
            assert isinstance(self.method, TakesRounded), "rounded_to says so"
            return self.method.gated_rounded(self.tensors, x, self.bias)
        return self.method.gated(self.tensors, x, self.bias)

    def gated_for(self, reader: "Projection", x: Tensor | Weighted | Rounded) -> Tensor | Rounded:
        """As gated, and rounded where `reader` would do that before anything else."""
        if isinstance(x, Rounded) and reader.rounded_to == x.numbers.dtype:
            assert isinstance(self.method, TakesRounded), "rounded_to says so"
            rounded = self.method.gated_to_rounded(self.tensors, x, self.bias)
            if rounded is not None:
                return rounded
        return self.gated(x)


class Linear(Projection):
    """y = W x + b, whole on every rank."""

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class ColumnLinear(Projection):
    """Each rank computes a share of the outputs. Several outputs are computed as one product."""

    def local_outputs(self, output: Output) -> Share:
        return divided(output.size, self.group, unit=output.unit, copies=output.copies, what=output.name)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class RowLinear(Projection):
    """Each rank holds a share of the inputs, in units of `unit`; the ranks' results are summed."""

    def local_inputs(self) -> Share:
        names = ", ".join(output.name for output in self.outputs)
        return divided(self.in_features, self.group, unit=self.unit, what=f"the inputs of {names}")

    def forward(self, x: Tensor | Rounded) -> Tensor:
        """x [tokens, local inputs] -> [tokens, outputs], the same on every rank."""
        if self.group.ranks == 1:
            return self.product(x)
        y = self.group.sum(self.multiplied(x, None))
        return y if self.bias is None else y + self.bias

    def later(self, x: Tensor | Rounded) -> "Tensor | Product | Parts":
        """As forward, but may leave the product, or its last sum, to whoever adds it to something."""
        if self.group.ranks > 1 or self.bias is not None:
            return self(x)
        matrix = self.joined(ops.linear_add_weigh, len(x), sum(output.size for output in self.outputs))
        can_wait = isinstance(self.method, Unquantized) and (matrix is not None or ops.linear_add.pays(len(x)))
        if can_wait and isinstance(x, Tensor):
            return Product(self, x, self.tensors["weight"], is_weighed=matrix is not None)
        return self.in_parts(x)

    def in_parts(self, x: Tensor | Rounded) -> "Tensor | Parts":
        """As forward on one rank without a bias, but may leave the last sum to whoever adds it to something."""
        parts = self.method.in_parts(self.tensors, x) if isinstance(self.method, LeavesParts) else None
        return self(x) if parts is None else Parts(parts)


@dataclass(frozen=True, slots=True)
class Product:
    """A product that is still to be computed: W x. is_weighed: ops.linear_add_weigh may compute it."""

    layer: RowLinear
    x: Tensor
    matrix: Tensor
    is_weighed: bool

    def compute(self) -> "Tensor | Parts":
        return self.layer.in_parts(self.x)


@dataclass(frozen=True, slots=True)
class Parts:
    """A product that is still to be added up: the sum of parts [n, tokens, outputs] float32."""

    parts: Tensor


Unfinished: TypeAlias = Tensor | Product | Parts  # what a block's layer may return to the norm that adds it


class QKVLinear(ColumnLinear):
    """Query, key and value projections as one product. Ranks beyond the number of kv heads hold copies of these."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, dim: int, *, bias: bool = False):
        outputs = [
            Output("q_proj", heads * dim, dim),
            Output("k_proj", kv_heads * dim, dim, copies=True),
            Output("v_proj", kv_heads * dim, dim, copies=True),
        ]
        super().__init__(hidden, outputs, bias=bias)
        self.dim = dim

    def place(self, site: Site) -> Mapping[str, Declared]:
        declared = super().place(site)
        self.local_heads, self.local_kv_heads, _ = (self.local_outputs(one).count // self.dim for one in self.outputs)
        return declared

    def heads(self, x: Tensor | Rounded) -> tuple[Tensor, Tensor, Tensor]:
        """x [tokens, hidden] -> q [tokens, local heads, dim], k and v [tokens, local kv heads, dim]."""
        heads = self.product(x).view(len(x), -1, self.dim)
        keys, values = self.local_heads, self.local_heads + self.local_kv_heads
        return heads[:, :keys], heads[:, keys:values], heads[:, values:]


class InterleavedQKVLinear(QKVLinear):
    """As QKVLinear, of checkpoints that keep all in one module: each kv head's queries, its key and its value."""

    def __init__(self, name: str, hidden: int, heads: int, kv_heads: int, dim: int, *, bias: bool = False):
        super().__init__(hidden, heads, kv_heads, dim, bias=bias)
        self.name, self.queries_per_key = name, heads // kv_heads

    def runs(self, site: Site) -> list[Run]:
        size = sum(output.size for output in self.outputs)

        def run(first: int, last: int) -> Run:
            """Heads as the checkpoint counts them."""
            return Run(site.beside(self.name), Share(size, first * self.dim, last * self.dim))

        (first, last), (first_key, last_key), _ = (self._local_heads(output) for output in self.outputs)
        group, keys = self.queries_per_key, range(first_key, last_key)
        # Before the queries of each kv head lie the keys and values of those before it.
        queries = [run(max(first, key * group) + 2 * key, min(last, (key + 1) * group) + 2 * key) for key in keys]
        after = [(key + 1) * group + 2 * key for key in keys]
        return queries + [run(at, at + 1) for at in after] + [run(at + 1, at + 2) for at in after]

    def _local_heads(self, output: Output) -> tuple[int, int]:
        share = self.local_outputs(output)
        return share.start // self.dim, share.stop // self.dim


def one_method(modules: Sequence[str], site: Site) -> LinearMethod:
    """The method for matrices that are computed as one product. Raises ConfigError if they are stored differently."""
    methods = [site.method_for(module) for module in modules]
    if any(method is not methods[0] for method in methods):
        different = {method.name: module for module, method in zip(modules, methods, strict=True)}
        stored = ", ".join(f"{module}: {name}" for name, module in different.items())
        raise ConfigError(f"matrices that are computed as one must be quantized alike; there are {stored}")
    return methods[0]
