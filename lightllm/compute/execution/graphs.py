"""Decode steps as CUDA graphs: recorded once for each of some sizes, replayed in one launch.

A step whose sequences all run one token and sample is padded to the next size. What it depends on lies in one buffer
at fixed places, filled by one copy. Logits and sampling are launched separately: so no graph keeps logits of its own,
and what a step samples with may change from step to step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightllm.base import log
from lightllm.base.step import StepPlan
from lightllm.compute.attention.batch import Batch
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Upload

_log = log.get(__name__)
_LINES = 7  # of the buffer, each of int64; the last one holds two lines of int32
_ALIGN = 4  # numbers: kernels are compiled once more for addresses that are not multiples of 16 bytes
# From each of these sizes on, the next ones are this much larger.
_GAPS = ((1, 1), (2, 2), (4, 4), (8, 8), (256, 32), (512, 64))

Compute = Callable[[], Tensor]


class Recorder(Protocol):
    """How computations are recorded; a test may put something in the place of CUDA graphs."""

    def __call__(self, compute: Compute) -> tuple[Callable[[], object], Tensor]:
        """What computes the same again, and the tensor in which the outcome then lies."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """Of the n sequences of a step that sample: hidden states [n, hidden], rows and lengths [n] int64."""

    hidden: Tensor
    row: Tensor
    length: Tensor


def sizes_up_to(most: int) -> list[int]:
    """Numbers of sequences to record graphs for, so that less than half of a step is padding; `most` is the last."""
    sizes, size = [], 1
    while size < most:
        sizes.append(size)
        size += next(gap for first, gap in reversed(_GAPS) if size >= first)
    return [*sizes, most] if most > 0 else []


class Graphs:
    """The recorded sizes of one model with one pool."""

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
        self._model, self._rows, self._hold_slot, self._upload = model, rows, hold_slot, upload
        self._sizes = np.array(sorted(sizes), np.int64)
        most, device = max(sizes), rows.slot_table.device
        self._buffer = torch.zeros(_LINES * _width(most), dtype=torch.int64, device=device)
        self._query_start = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._recorded: dict[int, tuple[Callable[[], object], Sampling]] = {}
        # Largest first: the smaller ones then find room in the memory of the larger.
        for done, size in enumerate(sorted(sizes, reverse=True), start=1):
            self._fill(None, size)
            replay, hidden = record(lambda size=size: self._compute(size))
            _, _, _, row, _, length, *_ = self._lines(size)
            self._recorded[size] = replay, Sampling(hidden, row, length)
            if 4 * done // len(sizes) > 4 * (done - 1) // len(sizes):
                _log.info("CUDA graphs: %d of %d captured", done, len(sizes))

    def run(self, plan: StepPlan) -> Sampling | None:
        """Launches a step, or returns None if no graph fits it."""
        size = self.size_for(plan)
        if size is None:
            return None
        self._fill(plan, size)
        replay, padded = self._recorded[size]
        replay()
        count = len(plan.rows)
        return Sampling(padded.hidden[:count], padded.row[:count], padded.length[:count])

    def size_for(self, plan: StepPlan) -> int | None:
        """The size that a plan is padded to. None if it is no plain decode step, or too large."""
        count = len(plan.rows)
        if count > self._sizes[-1]:
            return None
        is_plain = (
            len(plan.tokens) == len(plan.update_slots) == len(plan.update_rows) == count
            and plan.samples.all()
            and (plan.update_counts == 1).all()
            and np.array_equal(plan.update_rows, plan.rows)
            and np.array_equal(plan.update_starts, plan.starts)
        )
        return int(self._sizes[np.searchsorted(self._sizes, count)]) if is_plain else None

    def _fill(self, plan: StepPlan | None, size: int) -> None:
        """Writes a plan into the buffer, or padding only.

        Lines: tokens, positions, slots, rows, entries of the slot table, lengths; then, as int32, lengths and slots.
        """
        rows = self._rows
        hold = [0, 0, self._hold_slot, rows.hold_row, rows.hold_row * rows.longest, 1]
        lines = np.repeat(np.array([*hold, 0], np.int64)[:, None], _width(size), axis=1)
        if plan is not None:
            entries = plan.rows.astype(np.int64) * rows.longest + plan.starts
            known = plan.tokens, plan.starts, plan.update_slots, plan.rows, entries, plan.starts + 1
            lines[:-1, : len(plan.rows)] = known
        narrow = lines[-1].view(np.int32).reshape(2, -1)
        narrow[0], narrow[1] = lines[5], lines[2]
        self._upload.into(self._buffer[: lines.size], lines.reshape(-1))

    def _lines(self, size: int) -> tuple[Tensor, ...]:
        """The buffer's lines for a size, the last one as two of int32."""
        *wide, narrow = self._buffer[: _LINES * _width(size)].split(_width(size))
        return tuple(line[:size] for line in (*wide, *narrow.view(torch.int32).split(_width(size))))

    def _compute(self, size: int) -> Tensor:
        """What is recorded: hidden states [size, hidden] of the step that lies in the buffer."""
        tokens, positions, slots, row, entries, _, lengths, narrow_slots = self._lines(size)
        rows = self._rows
        rows.set_slots(entries, narrow_slots)
        tokens = rows.resolve(tokens, row)
        rows.set_tokens(slots, tokens)
        return self._model(
            Batch(
                tokens=tokens,
                positions=positions,
                slots=slots,
                slot_table=rows.slot_table,
                row=row,
                query_start=self._query_start[: size + 1],
                lengths=lengths,
                decodes=size,
                query_lengths=[],
                context_lengths=[],
                max_length=rows.longest,
            )
        )


def _width(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def compute_again(compute: Compute) -> tuple[Callable[[], object], Tensor]:
    """In the place of a recorder where there is no device to record: what replays just computes."""
    outcome = compute()
    return lambda: outcome.copy_(compute()), outcome


class CudaRecorder:
    """Records CUDA graphs that share memory: they must be replayed one after another, on one stream."""

    def __init__(self, stream: torch.cuda.Stream):
        """stream: records; no other work may be on it."""
        self._stream = stream
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> tuple[Callable[[], None], Tensor]:
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            # Once outside the graph: compiles kernels, and makes what libraries keep.
            compute()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            outcome = compute()
            graph.capture_end()
        return graph.replay, outcome
