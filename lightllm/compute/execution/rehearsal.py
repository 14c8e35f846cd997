"""Steps without weights, memory or results: so that kernels are compiled while weights are still being read."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from lightllm.base.step import StepPlan
from lightllm.compute.execution.graphs import compute_again
from lightllm.compute.execution.loading import Blueprint
from lightllm.compute.execution.materialize import allocate, place
from lightllm.compute.execution.shortened import shortened
from lightllm.compute.execution.stepper import Stepper
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.transfers import Upload

META = torch.device("meta")
_COMPILER = "torch._dynamo"


@contextmanager
def _without_torchs_compiler() -> Iterator[None]:
    """Operations on tensors without memory import torch's compiler when they are first called, which takes seconds,
    only to be left alone by it. Here they find something else that leaves them alone."""
    if _COMPILER in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(_COMPILER)
    stand_in.disable = lambda function, *_, **__: function
    sys.modules[_COMPILER] = torch._dynamo = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER], torch._dynamo


@_without_torchs_compiler()
@torch.inference_mode()
def rehearse(
    blueprint: Blueprint,
    group: Group,
    plans: Iterable[StepPlan],
    *,
    rows: int,
    longest: int,
    graph_sizes: Sequence[int],
    mixed_sizes: Sequence[int],
    kernels: Callable[[], int],
) -> list[StepPlan]:
    """Computes these plans as `group`'s rank will, with tensors that have types and shapes and no memory.

    Ops and kernels must have been chosen, for the device that will run them. rows, longest: see Stepper. kernels: how
    many different ones were launched so far. graph_sizes, mixed_sizes: of decode steps, and of others that are
    recorded. Returns the plans that launch some kernels which no earlier one did.
    """
    alone = Group(group.rank, group.ranks, gather_last=lambda x: x.new_empty(*x.shape[:-1], x.shape[-1] * group.ranks))
    model = blueprint.build().eval()
    for placed in place(model, mesh=Mesh(tensor=alone), dtype=blueprint.dtype, method_for=blueprint.method_for()):
        placed.layer.fill(allocate(placed, dtype=blueprint.dtype, device=META))
    plans, needed = list(plans), []
    with shortened(model):
        stepper = Stepper(
            model,
            rows=rows,
            longest=longest,
            slots=longest,
            form=blueprint.state_format,
            group=alone,
            upload=Upload(META),
        )
        for plan in plans:
            before = kernels()
            stepper.launch(plan)
            if kernels() > before:
                needed.append(plan)
        if graph_sizes:
            stepper.capture(graph_sizes, compute_again, most_read_again=longest**2)
            for plan in plans:
                if len(plan.tokens) <= max(graph_sizes):
                    stepper.launch(plan)
        if mixed_sizes:
            stepper.capture_mixed(mixed_sizes, compute_again)
    return needed
