"""Rope on a CPU: queries and keys are turned together, in few calls."""

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.needs import why_not


@ops.rotate_halves.implementation("cpu", why_not)
def rotate_halves(x: Tensor, positions: Tensor, table: Tensor) -> Tensor:
    cos, sin = table.index_select(0, positions).to(x.dtype).unsqueeze(1).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(b * cos, a, sin)], dim=-1)


@ops.norm_rotate_store.implementation("cpu", why_not)
def norm_rotate_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    if q_weight is not None and k_weight is not None:
        q = torch.rms_norm(q, q_weight.shape, q_weight, eps)
        k = torch.rms_norm(k, k_weight.shape, k_weight, eps)
    both = rotate_halves(torch.cat([q, k], dim=1), positions, table)
    keys.index_copy_(0, slots, both[:, q.shape[1] :].to(keys.dtype))
    values.index_copy_(0, slots, v.to(values.dtype))
    return both[:, : q.shape[1]]
