"""Experts on a CPU: tokens are sorted by expert, so that only experts that were chosen are computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.needs import why_not


@ops.gated_experts.implementation("cpu", why_not)
def gated_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    choice: Tensor,
    share: Tensor,
    first: int,
    beside: Tensor | None = None,
) -> Tensor:
    expert, order = (choice - first).flatten().sort()
    token, share = order // choice.shape[1], share.flatten()[order]
    edges = torch.searchsorted(expert, torch.arange(len(gate_up) + 1)).tolist()
    out = torch.zeros_like(x, dtype=torch.float32)
    if beside is not None:
        out += beside
    for local, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        if start < stop:
            mine = token[start:stop]
            gate, up = F.linear(x[mine], gate_up[local]).chunk(2, -1)
            out.index_add_(0, mine, F.linear(F.silu(gate) * up, down[local]) * share[start:stop, None])
    return out.to(x.dtype)
