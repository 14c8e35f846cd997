"""Small steps of decodes and chunks as CUDA graphs: recorded once for each of some numbers of tokens.

A step is padded to the next size. Decodes, then chunks, are followed by sequences without tokens, so that each kind has
a fixed number of places; then each padded token is a sequence in the hold row, of which attention does not know; what
is wanted of the last layer is followed by sequences of length 0. Grids are large enough for any such step, and programs
that find nothing to do end. Changes of the slot table that are more than tokens, as after a long prefix that was found,
are made before the replay; logits and sampling are launched after it, as in `graphs`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightllm.base.step import ROW, StepPlan
from lightllm.compute import ops
from lightllm.compute.execution.graphs import Recorder, Sampling, largest_first
from lightllm.compute.execution.mixed_layout import Layout, PaddedStep
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.step import starts_of
from lightllm.compute.layers.batch import Batch, Wanted
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.transfers import Upload

GAPS = ((32, 32), (256, 64), (512, 128))  # of sizes_up_to, in tokens
MOST_SEQUENCES = 256
MOST_CHUNKS = 32  # the kernel looks through this many in any case
# A recorded step reads the context of a chunk by slots. Kernels launched one by one would copy a long one, which saves
# about 15 ns a token and layer (FEWEST_ROWS in kernels/triton/attention), but wait for the host: up to 12 ms of the 20
# that it takes for 32 layers on an H200. That much is saved at 24k beside few tokens, and at less beside more.
LONGEST_CONTEXT = 8192

_NONE = np.zeros(0, np.int32)
_NOTHING = StepPlan(
    step=0,
    rows=_NONE,
    starts=_NONE,
    counts=_NONE,
    samples=np.zeros(0, np.bool_),
    tokens=_NONE,
    update_rows=_NONE,
    update_starts=_NONE,
    update_counts=_NONE,
    update_slots=_NONE,
    begins=np.zeros(0, ROW),
    stop_tokens=_NONE,
)


class MixedGraphs:
    """The recorded sizes of one model with one pool. sizes: numbers of tokens."""

    def __init__(
        self,
        model: Callable[[Batch], Tensor],
        rows: Rows,
        hold_slot: int,
        sizes: Sequence[int],
        *,
        upload: Upload,
        record: Recorder,
    ):
        self._model, self._rows, self._upload = model, rows, upload
        self._sizes, most = np.array(sorted(sizes), np.int64), max(sizes)
        self._most_sequences, device = min(rows.hold_row, MOST_SEQUENCES), rows.slot_table.device
        self._steps = {size: self._padded(size) for size in sizes}
        self._buffer = torch.zeros(len(self._steps[most].bytes), dtype=torch.uint8, device=device)
        self._recorded: dict[int, tuple[Callable[[], object], Sampling]] = {}
        rows.slot_table[rows.hold_row, 0] = hold_slot
        for size in largest_first(sizes, "mixed steps"):
            step = self._steps[size]
            there = step.on_device(self._buffer)
            self._fill(step, _NOTHING)
            replay, hidden = record(lambda step=step, there=there: self._model(self._batch(step, there)))
            self._recorded[size] = replay, Sampling(hidden, there.wanted_row, there.wanted_length)

    def run(self, plan: StepPlan) -> Sampling | None:
        """Launches a step, or returns None if no graph fits it."""
        size = self.size_for(plan)
        if size is None:
            return None
        step = self._steps[size]
        if not step.takes_changes(plan):
            self._update_slots(plan)
        self._fill(step, plan)
        replay, padded = self._recorded[size]
        replay()
        count = np.count_nonzero(plan.samples)
        return Sampling(padded.hidden[:count], padded.row[:count], padded.length[:count])

    def size_for(self, plan: StepPlan) -> int | None:
        """The number of tokens that a plan is padded to. None if it has too many tokens, sequences or chunks, or a
        chunk whose context is too long."""
        is_chunk = plan.counts > 1
        fits = (
            len(plan.tokens) <= self._sizes[-1]
            and len(plan.rows) <= self._most_sequences
            and np.count_nonzero(is_chunk) <= MOST_CHUNKS
            and (plan.starts + plan.counts)[is_chunk].max(initial=0) <= LONGEST_CONTEXT
        )
        return int(self._sizes[np.searchsorted(self._sizes, len(plan.tokens))]) if fits else None

    def _padded(self, size: int) -> PaddedStep:
        decodes = min(self._most_sequences, size)
        return PaddedStep(size, decodes=decodes, chunks=MOST_CHUNKS, hold_row=self._rows.hold_row)

    def _fill(self, step: PaddedStep, plan: StepPlan) -> None:
        step.fill(plan)
        self._upload.into(self._buffer[: len(step.bytes)], step.bytes)

    def _update_slots(self, plan: StepPlan) -> None:
        row, told, slot_start, new_slots = self._upload.together(
            plan.update_rows.astype(np.int64), plan.update_starts, starts_of(plan.update_counts), plan.update_slots
        )
        no_tokens, no_starts = new_slots[:0], torch.zeros_like(slot_start)
        ops.prepare_step(no_tokens, row, no_starts, slot_start, told, told, new_slots, *self._rows.tensors)

    def _batch(self, step: PaddedStep, layout: Layout) -> Batch:
        """The step whose layout is on the device."""
        rows, places = self._rows, step.places
        tokens, positions, slots = ops.prepare_step(
            layout.tokens,
            layout.row,
            layout.query_start,
            layout.slot_start,
            layout.starts,
            layout.told,
            layout.new_slots,
            *rows.tensors,
        )
        sequences = Sequences(
            slot_table=rows.slot_table,
            row=layout.row[:places],
            query_start=layout.query_start[: places + 1],
            lengths=layout.lengths,
            decodes=step.decodes,
            # Cut up anyhow, the tokens do not make more blocks than so.
            query_lengths=[step.size] + [1] * (MOST_CHUNKS - 1),
            context_lengths=None,
        )
        wanted = Wanted(layout.wanted_token, layout.wanted_row, layout.wanted_start, layout.wanted_lengths)
        return Batch(tokens, positions, slots, sequences, wanted)
