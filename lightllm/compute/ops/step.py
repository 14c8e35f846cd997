"""What a step needs to know of each token, from what a plan says of each sequence."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    rows, width, slots = 7, 450, 1400
    for counts, starts, told in [
        ([1], [5], [5]),
        ([1, 1, 1], [0, 39, 7], [0, 39, 7]),
        ([1, 1, 30, 2], [4, 9, 0, 20], [0, 10, 0, 5]),  # a prefix was found; the slot is known already
        ([9, 3], [0, 0], [4, 0]),
        ([1, 1, 300, 2, 270], [449, 0, 0, 60, 30], [449, 0, 0, 0, 100]),
        ([1, 0, 0, 20, 0, 3], [4, 7, 0, 9, 0, 0], [5, 7, 0, 29, 0, 3]),  # no tokens; no slots are new
        ([0, 0], [30, 7], [2, 6]),
    ]:
        make = {"dtype": torch.int32, "device": facts.device}
        lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        new = [max(length - first, 0) for length, first in zip(lengths, told, strict=True)]
        table = torch.randint(0, slots // 2, (rows, width), **make)
        spare = len(counts) - 1  # behind the last new slot
        fresh = (slots // 2 + torch.randperm(slots // 2, device=facts.device))[: sum(new) + spare].to(torch.int32)
        yield (
            torch.randint(-1, 100, (sum(counts),), **make),
            torch.randperm(rows, device=facts.device)[: len(counts)],
            *(torch.tensor([0, *sizes], device=facts.device).cumsum(0).to(torch.int32) for sizes in (counts, new)),
            *(torch.tensor(numbers, **make) for numbers in (starts, told)),
            fresh,
            # Each token of the table is in a slot of its own, as in a pool.
            torch.arange(rows * width, **make).view_as(table) + slots,
            torch.randint(0, 100, (rows,), device=facts.device),
            torch.zeros(slots + rows * width, **make),
        )


@op(cases=_cases)
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
    """Updates the slot table; then each token's id, position and slot. Notes which token runs in each slot.

    Sequence s, in row[s] [sequences] int64, runs tokens query_start[s] ... query_start[s + 1] - 1 of `tokens` [tokens]
    int32 from position starts[s] on; a token below 0 stands for last_token[row[s]] ([rows] int64). Its line of
    slot_table [rows, positions] int32 has new_slots[slot_start[s]] ... from position told[s] on. query_start,
    slot_start [sequences + 1] and starts, told [sequences] int32; new_slots [slots] int32; token_of_slot [pool slots]
    int32. What new_slots has behind the last one is for nobody. Returns three times [tokens] int64; changes slot_table
    and token_of_slot.
    """
    new_slots = new_slots[: int(slot_start[-1])]
    owner, place = _owners(slot_start, len(new_slots))
    slot_table.index_put_((row[owner], told.long()[owner] + place), new_slots)
    owner, place = _owners(query_start, len(tokens))
    row_of_token = row[owner]
    known = torch.where(tokens < 0, last_token[row_of_token], tokens)
    position = starts.long()[owner] + place
    slot = slot_table[row_of_token, position].long()
    token_of_slot.index_copy_(0, slot, known.to(torch.int32))
    return known, position, slot


def _owners(start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of 0 ... count - 1, cut at start [runs + 1], the run that each is in and its place there; int64."""
    runs = torch.arange(len(start) - 1, device=start.device)
    owner = runs.repeat_interleave(start.diff(), output_size=count)
    return owner, torch.arange(count, device=start.device) - start[owner]
