# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Laying out a step's tokens in one launch. Suffix: T tokens or slots of a program.

A token's new slot is read from the plan, not from the slot table, so that programs need not wait for one another.
Not launched dependently: attention reads the slot table before it waits (see `launch`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import cdiv, why_not

BLOCK = 256


@triton.jit
def _owner(start, index_T, count, sequences, halvings):
    """The sequence that each index below `count` is of, where sequence s has start[s] ... start[s + 1] - 1."""
    owner_T = tl.minimum(index_T, sequences - 1)
    # Most steps run one token of each sequence.
    is_one_T = (tl.load(start + owner_T) == index_T) & (tl.load(start + owner_T + 1) == index_T + 1)
    if tl.sum(((is_one_T == 0) & (index_T < count)).to(tl.int32), axis=0) > 0:
        owner_T = tl.zeros_like(index_T)
        end_T = owner_T + sequences
        for _ in range(halvings):
            middle_T = (owner_T + end_T) // 2
            is_begun_T = tl.load(start + middle_T) <= index_T
            owner_T = tl.where(is_begun_T, middle_T, owner_T)
            end_T = tl.where(is_begun_T, end_T, middle_T)
    return owner_T


@triton.jit(do_not_specialize=["num_tokens", "num_slots", "sequences", "halvings"])
def _prepare_step(
    tokens, row, query_start, slot_start, starts, told, new_slots, slot_table, last_token, token_of_slot,
    known, positions, slots, num_tokens, num_slots, sequences, halvings, table_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """halvings: of all sequences until one is left. num_slots: of new_slots, of which the last ones may be unused."""
    index_T = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_slot_T = index_T < tl.minimum(num_slots, tl.load(slot_start + sequences))
    owner_T = _owner(slot_start, index_T, num_slots, sequences, halvings)
    position_T = tl.load(told + owner_T) + index_T - tl.load(slot_start + owner_T)
    new_T = tl.load(new_slots + index_T, mask=is_slot_T, other=0)
    tl.store(slot_table + tl.load(row + owner_T) * table_stride + position_T, new_T, mask=is_slot_T)

    is_token_T = index_T < num_tokens
    owner_T = _owner(query_start, index_T, num_tokens, sequences, halvings)
    row_T, first_T = tl.load(row + owner_T), tl.load(slot_start + owner_T)
    position_T = tl.load(starts + owner_T) + index_T - tl.load(query_start + owner_T)
    place_T = position_T - tl.load(told + owner_T)
    is_new_T = (place_T >= 0) & (place_T < tl.load(slot_start + owner_T + 1) - first_T)
    new_T = tl.load(new_slots + first_T + place_T, mask=is_token_T & is_new_T, other=0)
    old_T = tl.load(slot_table + row_T * table_stride + position_T, mask=is_token_T & (is_new_T == 0), other=0)
    slot_T = tl.where(is_new_T, new_T, old_T).to(tl.int64)
    token_T = tl.load(tokens + index_T, mask=is_token_T, other=0).to(tl.int64)
    last_T = tl.load(last_token + row_T, mask=is_token_T & (token_T < 0), other=0)
    token_T = tl.where(token_T < 0, last_T, token_T)
    tl.store(known + index_T, token_T, mask=is_token_T)
    tl.store(positions + index_T, position_T.to(tl.int64), mask=is_token_T)
    tl.store(slots + index_T, slot_T, mask=is_token_T)
    tl.store(token_of_slot + slot_T, token_T.to(tl.int32), mask=is_token_T)


@ops.prepare_step.implementation("triton", why_not)
def prepare_step(
    tokens: Tensor,
    row: Tensor,
    query_start: Tensor,
    slot_start: Tensor,
    starts: Tensor,
    told: Tensor,
    new_slots: Tensor,
    slot_table: Tensor,
    last_token: Tensor,
    token_of_slot: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    known, positions, slots = (torch.empty(len(tokens), dtype=torch.int64, device=tokens.device) for _ in range(3))
    _prepare_step[(cdiv(max(len(tokens), len(new_slots)), BLOCK),)](
        tokens, row, query_start, slot_start, starts, told, new_slots, slot_table, last_token, token_of_slot,
        known, positions, slots, len(tokens), len(new_slots), len(row), len(row).bit_length(), slot_table.stride(0),
        BLOCK=BLOCK,
    )  # fmt: skip
    return known, positions, slots
