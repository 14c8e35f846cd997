"""From a StepPlan to the tensors of a step."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lightllm.base.step import StepPlan
from lightllm.compute import ops
from lightllm.compute.execution.rows import Rows
from lightllm.compute.layers.batch import Batch, Wanted
from lightllm.compute.ops.attention import IN_RUNS, Sequences
from lightllm.compute.transfers import Upload


@dataclass(frozen=True, slots=True)
class Step:
    """A batch of which n sequences' last tokens are wanted: of those that sample or, if none does, of one other.

    Or all hidden states of the batch are wanted, to score tokens of prompts or to be pooled.
    """

    batch: Batch
    token: Tensor  # [n] int64: places of these last tokens in the batch
    row: Tensor  # [n] int64: of these sequences
    length: Tensor  # [n] int64


def build(plan: StepPlan, rows: Rows, upload: Upload, *, is_all_wanted: bool = False) -> Step:
    """Changes the slot table as the plan says, and lays out its sequences. Needs a plan with at least one sequence.

    All that the device has to know goes there in one copy. Afterwards each slot of this step knows its token.
    """
    assert np.array_equal(plan.update_rows, plan.rows), "a plan tells of new slots sequence by sequence"
    lengths, row = plan.starts + plan.counts, plan.rows.astype(np.int64)
    query_start, slot_start = starts_of(plan.counts), starts_of(plan.update_counts)
    wanted = np.flatnonzero(plan.samples) if plan.samples.any() else np.array([len(plan.rows) - 1])
    said = (query_start, slot_start, plan.starts, plan.update_starts, plan.update_slots, lengths)
    last = (query_start[1:][wanted] - 1).astype(np.int64), row[wanted], lengths[wanted].astype(np.int64)
    tokens, row, *said, last_token, last_row, length, last_length, last_start = upload.together(
        plan.tokens, row, *said, *last, lengths[wanted], np.arange(len(wanted) + 1, dtype=np.int32)
    )
    queries, begins, starts, told, new_slots, length_of_each = said
    tokens, positions, slots = ops.prepare_step(tokens, row, queries, begins, starts, told, new_slots, *rows.tensors)
    decodes = int(np.count_nonzero(plan.counts == 1))
    batch = Batch(
        tokens=tokens,
        positions=positions,
        slots=slots,
        sequences=Sequences(
            slot_table=rows.slot_table,
            row=row,
            query_start=queries,
            lengths=length_of_each,
            decodes=decodes,
            query_lengths=plan.counts[decodes:].tolist(),
            context_lengths=lengths[decodes:].tolist(),
            memo={IN_RUNS: True} if _lie_in_runs(plan, decodes, slot_start) else {},
        ),
        wanted=None if is_all_wanted else Wanted(last_token, last_row, last_start, last_length),
    )
    return Step(batch, last_token, last_row, length)


def _lie_in_runs(plan: StepPlan, decodes: int, slot_start: np.ndarray) -> bool:
    """Whether the contexts of all sequences after the decodes begin in this plan and lie in runs of slots."""
    if decodes == len(plan.rows) or plan.update_starts[decodes:].any():
        return False
    slots, begins = plan.update_slots[slot_start[decodes] :], slot_start[decodes:] - slot_start[decodes]
    return bool(np.isin(np.flatnonzero(np.diff(slots) != 1) + 1, begins).all())


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Where runs of these lengths begin that lie end to end, and where the last one ends: [len(counts) + 1] int32."""
    return np.append(0, np.cumsum(counts)).astype(np.int32)
