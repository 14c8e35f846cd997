"""Mixture of experts: a router picks experts for each token; experts are split across ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.layers.linear import one_method
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.quant.method import LinearMethod, Routed
from lightllm.compute.weights.share import divided, whole
from lightllm.compute.weights.weight import Declared, Matrix, Part, Run, Stack, Weight, vector


class Experts(nn.Module):
    """Gated MLPs. Expert parallel: each rank holds whole experts. Otherwise: a share of every expert's width.

    names: of gate, up and down in a checkpoint.
    """

    method: LinearMethod
    gate_up: Mapping[str, Tensor]
    down: Mapping[str, Tensor]

    def __init__(
        self,
        experts: int,
        hidden: int,
        width: int,
        *,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    ):
        super().__init__()
        self.experts, self.hidden, self.width, self.names = experts, hidden, width, names
        self.group, self.first = Group(), 0

    def place(self, site: Site) -> Mapping[str, Declared]:
        by_expert = site.mesh.expert.ranks > 1
        self.group = site.mesh.expert if by_expert else site.mesh.tensor
        mine = divided(self.experts, site.mesh.expert, what="the list of experts")
        width = whole(self.width) if by_expert else divided(self.width, self.group, what="an expert's width")
        self.first, self.local_experts, self.local_width = mine.start, mine.count, width.count
        gate, up, down = self.names
        held = range(mine.start, mine.stop)
        self.method = one_method([f"{site.path}.{expert}.{name}" for expert in held for name in self.names], site)
        wide, narrow = [], []
        for expert in held:
            path = f"{site.path}.{expert}"
            gate_up = Run(f"{path}.{gate}", width), Run(f"{path}.{up}", width)
            wide.append(self.method.declare(Matrix(gate_up, whole(self.hidden))))
            narrow.append(self.method.declare(Matrix((Run(f"{path}.{down}", whole(self.hidden)),), width)))
        return {f"gate_up.{k}": v for k, v in _stacked(wide).items()} | {
            f"down.{k}": v for k, v in _stacked(narrow).items()
        }

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        def of(matrix: str) -> dict[str, Tensor]:
            return {k.removeprefix(matrix): tensor for k, tensor in tensors.items() if k.startswith(matrix)}

        self.gate_up, self.down = of("gate_up."), of("down.")

    def forward(self, x: Tensor, choice: Tensor, share: Tensor, beside: Tensor | None = None) -> Tensor:
        """x [tokens, hidden]; choice, share [tokens, top_k] -> [tokens, hidden], the same on every rank.

        beside [tokens, hidden], the same on every rank: is added.
        """
        routed = Routed(choice, share, self.first)
        if self.group.ranks == 1:
            return self.method.gated_experts(self.gate_up, self.down, x, routed, beside)
        y = self.group.sum(self.method.gated_experts(self.gate_up, self.down, x, routed, None))
        return y if beside is None else y + beside


def _stacked(members: list[Mapping[str, Declared]]) -> dict[str, Declared]:
    """Weights of all members stacked; what is computed is the same for each."""
    return {
        name: Stack(tuple(weight for member in members if isinstance(weight := member[name], Weight)))
        if isinstance(first, Weight)
        else first
        for name, first in members[0].items()
    }


class SoftmaxRouter(nn.Module):
    """Experts by softmax; see ops.route_softmax. Raises ConfigError if so many cannot be chosen from so many."""

    weight: Tensor
    least_group = 1  # experts of a group

    def __init__(
        self,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        groups: int = 1,
        top_groups: int = 1,
        renormalize: bool,
        scale: float = 1.0,
    ):
        super().__init__()
        self._check(experts, top_k, groups, top_groups)
        self.hidden, self.experts, self.top_k = hidden, experts, top_k
        self.groups, self.top_groups, self.renormalize, self.scale = groups, top_groups, renormalize, scale

    def _check(self, experts: int, top_k: int, groups: int, top_groups: int) -> None:
        are_groups = groups == 1 or (groups > 1 and experts % groups == 0 and experts // groups >= self.least_group)
        if not are_groups or not 1 <= top_groups <= groups or not 1 <= top_k <= experts // groups * top_groups:
            raise ConfigError(
                f"a token cannot choose {top_k} of {experts} experts in {top_groups} of {groups} equal groups; restore "
                "config.json from the checkpoint's source"
            )

    def place(self, site: Site) -> Mapping[str, Declared]:
        shape = (self.experts, self.hidden)
        part = Part(f"{site.path}.weight", shape, (slice(0, self.experts), slice(0, self.hidden)))
        return {"weight": Weight((part,), dtype=torch.float32)}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.weight = tensors["weight"]

    def logits(self, x: Tensor) -> Tensor:
        return ops.router_logits(x, self.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [tokens, hidden] -> choice, share [tokens, top_k]."""
        return ops.route_softmax(self.logits(x), self.top_k, self.groups, self.top_groups, self.renormalize, self.scale)


class SigmoidRouter(SoftmaxRouter):
    """Experts by sigmoid plus a learned bias; see ops.route_sigmoid."""

    bias: Tensor
    least_group = 2

    def place(self, site: Site) -> Mapping[str, Declared]:
        bias = vector(f"{site.path}.e_score_correction_bias", self.experts, dtype=torch.float32, dummy=0.0)
        return {**super().place(site), "bias": bias}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        super().fill(tensors)
        self.bias = tensors["bias"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [tokens, hidden] -> choice, share [tokens, top_k]."""
        return ops.route_sigmoid(
            self.logits(x), self.bias, self.top_k, self.groups, self.top_groups, self.renormalize, self.scale
        )


class MixtureOfExperts(nn.Module):
    """sum over the chosen experts of share * expert(x), plus the shared experts of x, where a model has any."""

    def __init__(self, router: SoftmaxRouter, experts: Experts, shared: GatedMLP | None = None):
        super().__init__()
        self.gate, self.experts, self.shared_experts = router, experts, shared

    def forward(self, x: Tensor) -> Tensor:
        beside = None if self.shared_experts is None else self.shared_experts(x)
        return self.experts(x, *self.gate(x), beside)
