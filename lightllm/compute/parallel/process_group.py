"""Groups of processes, one a rank, over torch.distributed: gloo on a CPU, NCCL on CUDA devices."""

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import ProcessGroup, Store

from lightllm.compute.parallel.mesh import Group

_PATIENCE = timedelta(minutes=10)
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
# TODO(torch>=2.13 required): the old name, which newer versions warn of, is then not needed.
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def join(store: Store, *, rank: int, ranks: int, device: torch.device) -> Group:
    """Meet the other `ranks - 1` processes at `store`, and return the group of all. Once per process."""
    if ranks == 1:
        return Group()
    dist.init_process_group(
        BACKENDS[device.type],
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=_PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )
    return subgroup(range(ranks))


def subgroup(members: Sequence[int]) -> Group:
    """A group of these ranks. Every process calls this for every group, in one order, and keeps those it is in."""
    handle = dist.new_group(list(members))
    rank = dist.get_rank()
    if rank not in members:
        return Group()
    assert isinstance(handle, ProcessGroup), "a member gets a group"

    def sum_(x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.all_reduce(x, group=handle)
        return x

    def gather_last(x: Tensor) -> Tensor:
        everyone = x.new_empty(len(members) * x.shape[0], *x.shape[1:])
        _gather_into(everyone, x.contiguous(), group=handle)
        return torch.cat(everyone.chunk(len(members)), dim=-1)

    def broadcast(x: Tensor) -> Tensor:
        x = x.contiguous()
        dist.broadcast(x, src=members[0], group=handle)
        return x

    return Group(members.index(rank), len(members), sum_, gather_last, broadcast)


def leave() -> None:
    """Undo `join`."""
    if dist.is_initialized():
        dist.destroy_process_group()
