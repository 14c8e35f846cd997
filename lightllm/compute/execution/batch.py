"""From a StepPlan to the tensors of a step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.base.step import StepPlan
from lightllm.compute.attention.batch import Batch, Wanted
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Upload


@dataclass(frozen=True, slots=True)
class Step:
    """A batch of which n sequences' last tokens are wanted: of those that sample or, if none does, of one other."""

    batch: Batch
    row: Tensor  # [n] int64: of these sequences
    length: Tensor  # [n] int64


def build(plan: StepPlan, rows: Rows, upload: Upload) -> Step:
    """Changes the slot table as the plan says, and lays out its sequences. Needs a plan with at least one sequence.

    All that the device has to know goes there in one copy. Afterwards each slot of this step knows its token.
    """
    lengths, query_start = plan.starts + plan.counts, np.append(0, np.cumsum(plan.counts))
    positions = runs(plan.starts, plan.counts)
    row_of_token = np.repeat(plan.rows, plan.counts)
    changes = _entries(plan.update_rows, plan.update_starts, plan.update_counts, rows.longest)
    samples = np.flatnonzero(plan.samples) if plan.samples.any() else np.array([len(plan.rows) - 1])
    on_device = upload.together(
        changes,
        plan.update_slots,
        plan.tokens,
        positions,
        _entries(plan.rows, plan.starts, plan.counts, rows.longest),
        row_of_token,
        plan.rows,
        query_start,
        lengths,
        query_start[1:][samples] - 1,
        plan.rows[samples],
        lengths[samples],
        np.arange(len(samples) + 1),
    )
    changed, new_slots, tokens, position, entries, token_row, row, start, length, *wanted = on_device
    rows.set_slots(changed, new_slots)
    tokens, slots = rows.resolve(tokens, token_row), rows.slots(entries)
    rows.set_tokens(slots, tokens)
    last_token, last_row, last_length, last_start = wanted
    decodes = int(np.count_nonzero(plan.counts == 1))
    batch = Batch(
        tokens=tokens,
        positions=position,
        slots=slots,
        slot_table=rows.slot_table,
        row=row,
        query_start=start.to(torch.int32),
        lengths=length.to(torch.int32),
        decodes=decodes,
        query_lengths=plan.counts[decodes:].tolist(),
        context_lengths=lengths[decodes:].tolist(),
        max_length=int(lengths.max()),
        wanted=Wanted(last_token, last_row, last_start.to(torch.int32), last_length.to(torch.int32)),
    )
    return Step(batch, last_row, last_length)


def runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), starts[1], ...: [sum of counts] int64."""
    first = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - first, counts)


def _entries(rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, longest: int) -> np.ndarray:
    """Places in the flattened slot table of `counts` positions from `starts` on, row by row."""
    return runs(rows.astype(np.int64) * longest + starts, counts)
