"""Attention over pools of fewer bits on a CPU: what a step's sequences hold is dequantized first."""

from collections.abc import Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.attention import attend, attend_latent
from lightllm.compute.kernels.cpu.needs import why_not
from lightllm.compute.ops.kv_formats import dequantized


@dataclass(frozen=True, slots=True)
class Held:
    """The slots of all sequences of a step end to end, and where each position's is in that list."""

    slots: Tensor  # [n] int64
    table: Tensor  # [sequences, longest] int32
    row: Tensor  # [sequences] int64

    def of(self, pool: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """[n, ...] of what these slots stand for."""
        numbers = pool.view(torch.uint8).index_select(0, self.slots).view(pool.dtype)
        return dequantized(numbers, scale.index_select(0, self.slots), dtype)


@ops.attend_quantized.implementation("cpu", why_not)
def attend_quantized(
    q: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    slot_table: Tensor,
    row: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    decodes: int,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int] | None,
    max_length: int,
    memo: MutableMapping[Hashable, Any],
) -> Tensor:
    held = _held(memo, slot_table, row, lengths)
    pools = held.of(keys, key_scale, q.dtype), held.of(values, value_scale, q.dtype)
    hints = (decodes, query_lengths, context_lengths, max_length, memo)
    return attend(q, *pools, held.table, held.row, query_start, lengths, scale, window, *hints)


@ops.attend_latent_quantized.implementation("cpu", why_not)
def attend_latent_quantized(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    latent_scale: Tensor,
    slot_table: Tensor,
    row: Tensor,
    query_start: Tensor,
    lengths: Tensor,
    scale: float,
    decodes: int,
    query_lengths: Sequence[int],
    context_lengths: Sequence[int] | None,
    max_length: int,
    memo: MutableMapping[Hashable, Any],
) -> Tensor:
    held = _held(memo, slot_table, row, lengths)
    pool = held.of(latents, latent_scale, fixed.dtype)
    where, hints = (held.table, held.row, query_start, lengths), (decodes, query_lengths, context_lengths, max_length)
    return attend_latent(fixed, turning, key, value, pool, *where, scale, *hints, memo)


def _held(memo: MutableMapping[Hashable, Any], slot_table: Tensor, row: Tensor, lengths: Tensor) -> Held:
    """Made by the first layer that asks. A prefix that sequences share is listed for each."""
    if "held" not in memo:
        longest = int(lengths.max()) if len(lengths) else 0
        exists = torch.arange(longest) < lengths[:, None]
        place = exists.flatten().cumsum(0).view(exists.shape) - 1
        slots = slot_table.index_select(0, row)[:, :longest][exists].long()
        memo["held"] = Held(slots, place.clamp(min=0).to(torch.int32), torch.arange(len(row)))
    return memo["held"]
