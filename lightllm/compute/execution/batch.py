"""From a StepPlan to the tensors of a step."""

import numpy as np
import torch

from lightllm.base.step import StepPlan
from lightllm.compute.attention.batch import Batch
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Upload


def build(plan: StepPlan, rows: Rows, upload: Upload) -> Batch:
    """Changes the slot table as the plan says, and lays out its sequences. Needs a plan with at least one sequence.

    Afterwards each slot of this step knows its token.
    """
    lengths, query_start = plan.starts + plan.counts, np.append(0, np.cumsum(plan.counts))
    positions = runs(plan.starts, plan.counts)
    row_of_token = np.repeat(plan.rows, plan.counts)
    changes = _entries(plan.update_rows, plan.update_starts, plan.update_counts, rows.longest)
    entries, new_slots, tokens, position, token_row, row, start, length = upload.together(
        changes, plan.update_slots, plan.tokens, positions, row_of_token, plan.rows, query_start, lengths
    )
    rows.set_slots(entries, new_slots)
    tokens = torch.where(tokens < 0, rows.last_token.index_select(0, token_row), tokens)
    slots = rows.slots(token_row * rows.longest + position)
    rows.token_of_slot.index_copy_(0, slots, tokens.to(torch.int32))
    decodes = int(np.count_nonzero(plan.counts == 1))
    return Batch(
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
    )


def runs(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), starts[1], ...: [sum of counts] int64."""
    first = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - first, counts)


def _entries(rows: np.ndarray, starts: np.ndarray, counts: np.ndarray, longest: int) -> np.ndarray:
    """Places in the flattened slot table of `counts` positions from `starts` on, row by row."""
    return runs(rows.astype(np.int64) * longest + starts, counts)
