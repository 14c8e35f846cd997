"""Small steps of decodes and chunks as CUDA graphs: recorded once for each of some numbers of tokens.

A step is padded to the next size. Decodes, then chunks, are followed by sequences without tokens, so that each kind has
a fixed number of places; then each padded token is a sequence in the hold row, of which attention does not know; what
is wanted of the last layer is followed by sequences of length 0. Grids are large enough for any such step, and programs
that find nothing to do end. Changes of the slot table, whose number is anything, are made before the replay; logits and
sampling are launched after it, as in `graphs`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightllm.base.step import StepPlan
from lightllm.compute import ops
from lightllm.compute.attention.batch import Batch, Wanted
from lightllm.compute.execution.batch import starts_of
from lightllm.compute.execution.graphs import Recorder, Sampling, largest_first
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Upload, pack

GAPS = ((32, 32), (256, 64), (512, 128))  # of sizes_up_to, in tokens
MOST_SEQUENCES = 256
MOST_CHUNKS = 32  # the kernel looks through this many in any case
# A recorded step reads the context of a chunk by slots. Kernels launched one by one would copy a long one, which saves
# about 15 ns a token and layer (FEWEST_ROWS in kernels/triton/attention), but wait for the host: up to 12 ms of the 20
# that it takes for 32 layers on an H200. That much is saved at 24k beside few tokens, and at less beside more.
LONGEST_CONTEXT = 8192

ROOM_FOR_SLOTS = 1 << 16  # bytes: changes of the slot table that are more take a copy of their own

Numbers = Any  # np.ndarray on the host, Tensor on the device


class Layout(NamedTuple):
    """What the device has to know of a padded step: T tokens, D places of decodes, S places of sequences in all."""

    tokens: Numbers  # [T] int32: see StepPlan
    row: Numbers  # [S + T] int64
    query_start: Numbers  # [S + T + 1] int32
    starts: Numbers  # [S + T] int32: position of each sequence's first token
    lengths: Numbers  # [S] int32
    wanted_token: Numbers  # [D] int64: see Wanted
    wanted_row: Numbers  # [D] int64
    wanted_start: Numbers  # [D + 1] int32
    wanted_lengths: Numbers  # [D] int32
    wanted_length: Numbers  # [D] int64


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
        self._zeros = torch.zeros(2 * most + MOST_SEQUENCES + MOST_CHUNKS, dtype=torch.int32, device=device)
        nothing = (np.zeros(0, np.int32),) * 5
        room = len(pack(self._lay_out(most, *nothing))[0]) + ROOM_FOR_SLOTS
        self._buffer = torch.zeros(room, dtype=torch.uint8, device=device)
        self._recorded: dict[int, tuple[Callable[[], object], Sampling]] = {}
        rows.slot_table[rows.hold_row, 0] = hold_slot
        for size in largest_first(sizes, "mixed steps"):
            layout = self._lay_out(size, *nothing)
            self._fill(layout)
            there = self._on_device(layout)
            replay, hidden = record(lambda size=size, there=there: self._model(self._batch(size, there)))
            self._recorded[size] = replay, Sampling(hidden, there.wanted_row, there.wanted_length)

    def run(self, plan: StepPlan) -> Sampling | None:
        """Launches a step, or returns None if no graph fits it."""
        size = self.size_for(plan)
        if size is None:
            return None
        layout = self._lay_out(size, plan.tokens, plan.rows, plan.starts, plan.counts, plan.samples)
        self._update_slots(*self._fill(layout, _changes(plan)))
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

    def _places(self, size: int) -> tuple[int, int]:
        """How many decodes a step of this size may have, which is also how many sequences; and places in all."""
        decodes = min(self._most_sequences, size)
        return decodes, decodes + MOST_CHUNKS

    def _lay_out(
        self,
        size: int,
        tokens: np.ndarray,
        rows: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        samples: np.ndarray,
    ) -> Layout:
        """Sequences as a plan has them, padded."""
        decodes, hold_row = np.count_nonzero(counts == 1), self._rows.hold_row
        most_decodes, places = self._places(size)

        def placed(values: np.ndarray, dtype: type, padding: int = 0) -> np.ndarray:
            every = np.full(places + size, padding, dtype)
            every[:decodes] = values[:decodes]
            every[most_decodes : most_decodes + len(values) - decodes] = values[decodes:]
            return every

        row, start, count = placed(rows, np.int64, hold_row), placed(starts, np.int32), placed(counts, np.int32)
        lengths, wanted = (start + count)[:places], np.flatnonzero(placed(samples, np.int32))
        count[places : places + size - len(tokens)] = 1
        query_start = starts_of(count)
        return Layout(
            tokens=_widened(tokens, size, np.int32),
            row=row,
            query_start=query_start,
            starts=start,
            lengths=lengths,
            wanted_token=_widened(query_start[1:][wanted] - 1, most_decodes, np.int64),
            wanted_row=_widened(row[wanted], most_decodes, np.int64, hold_row),
            wanted_start=_widened(np.arange(len(wanted) + 1), most_decodes + 1, np.int32, len(wanted)),
            wanted_lengths=_widened(lengths[wanted], most_decodes, np.int32),
            wanted_length=_widened(lengths[wanted], most_decodes, np.int64),
        )

    def _fill(self, layout: Layout, more: Sequence[np.ndarray] = ()) -> list[Tensor]:
        """Uploads a layout to its place and `more` behind it, in one copy if there is room. Returns the latter."""
        packed, starts = pack([*layout, *more])
        if len(packed) > len(self._buffer):
            self._fill(layout)
            return list(self._upload.together(*more))
        self._upload.into(self._buffer[: len(packed)], packed)
        return self._views(starts[len(layout) :], more)

    def _on_device(self, layout: Layout) -> Layout:
        """Where `_fill` puts a layout of this size."""
        _, starts = pack(layout)
        return Layout(*self._views(starts, layout))

    def _views(self, starts: Sequence[int], arrays: Sequence[np.ndarray]) -> list[Tensor]:
        """The parts of the buffer that begin at these bytes, with types and sizes of these arrays."""
        types = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64}
        return [
            self._buffer[start : start + array.nbytes].view(types[array.dtype])
            for start, array in zip(starts, arrays, strict=True)
        ]

    def _update_slots(self, row: Tensor, told: Tensor, slot_start: Tensor, new_slots: Tensor) -> None:
        no_tokens, zeros = self._zeros[:0], self._zeros[: len(row) + 1]
        ops.prepare_step(no_tokens, row, zeros, slot_start, told, told, new_slots, *self._rows.tensors)

    def _batch(self, size: int, layout: Layout) -> Batch:
        """The step whose layout is on the device."""
        rows, zeros, (decodes, places) = self._rows, self._zeros, self._places(size)
        no_slots, none_each = zeros[:0], zeros[: places + size + 1]
        where = layout.tokens, layout.row, layout.query_start, none_each, layout.starts, layout.starts, no_slots
        tokens, positions, slots = ops.prepare_step(*where, *rows.tensors)
        return Batch(
            tokens=tokens,
            positions=positions,
            slots=slots,
            slot_table=rows.slot_table,
            row=layout.row[:places],
            query_start=layout.query_start[: places + 1],
            lengths=layout.lengths,
            decodes=decodes,
            # Cut up anyhow, the tokens do not make more blocks than so.
            query_lengths=[size] + [1] * (MOST_CHUNKS - 1),
            context_lengths=None,
            max_length=rows.longest,
            wanted=Wanted(layout.wanted_token, layout.wanted_row, layout.wanted_start, layout.wanted_lengths),
        )


def _changes(plan: StepPlan) -> list[np.ndarray]:
    """Of the slot table, as `_update_slots` takes them."""
    return [plan.update_rows.astype(np.int64), plan.update_starts, starts_of(plan.update_counts), plan.update_slots]


def _widened(values: np.ndarray, width: int, dtype: type, padding: int = 0) -> np.ndarray:
    wide = np.full(width, padding, dtype)
    wide[: len(values)] = values
    return wide
