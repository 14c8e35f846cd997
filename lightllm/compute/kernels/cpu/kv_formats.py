"""Attention over pools of fewer bits on a CPU: what a step's sequences hold is dequantized first."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.attention import attend, attend_latent
from lightllm.compute.kernels.cpu.needs import why_not
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.ops.kv_formats import dequantized


@dataclass(frozen=True, slots=True)
class Held:
    """The slots of all sequences of a step end to end, and these sequences in a pool of just such slots."""

    slots: Tensor  # [n] int64
    sequences: Sequences

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
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    held = _held(sequences)
    pools = held.of(keys, key_scale, q.dtype), held.of(values, value_scale, q.dtype)
    return attend(q, *pools, held.sequences, scale, window)


@ops.attend_latent_quantized.implementation("cpu", why_not)
def attend_latent_quantized(
    fixed: Tensor,
    turning: Tensor,
    key: Tensor,
    value: Tensor,
    latents: Tensor,
    latent_scale: Tensor,
    sequences: Sequences,
    scale: float,
) -> Tensor:
    held = _held(sequences)
    pool = held.of(latents, latent_scale, fixed.dtype)
    return attend_latent(fixed, turning, key, value, pool, held.sequences, scale)


def _held(sequences: Sequences) -> Held:
    """Made by the first layer that asks. A prefix that sequences share is listed for each."""
    memo, lengths = sequences.memo, sequences.lengths
    if "held" not in memo:
        longest = int(lengths.max()) if len(lengths) else 0
        exists = torch.arange(longest) < lengths[:, None]
        place = exists.flatten().cumsum(0).view(exists.shape) - 1
        slots = sequences.slot_table.index_select(0, sequences.row)[:, :longest][exists].long()
        table, row = place.clamp(min=0).to(torch.int32), torch.arange(len(lengths))
        # With a memo of its own: one that held itself would outlive its step.
        memo["held"] = Held(slots, replace(sequences, slot_table=table, row=row, memo={}))
    return memo["held"]
