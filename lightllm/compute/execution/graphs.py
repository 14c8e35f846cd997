"""Small steps as CUDA graphs: recorded once for each of some numbers of tokens, replayed in one launch.

A graph computes sequences of one token each. A chunk is given to it as that many sequences of one row, each of which
sees one token more than the one before: the same result, for reading the chunk's context once for each of its tokens.
So steps of few tokens, of which chunks read little again, need no graphs of their own, and no other kernels. A step is
padded to the next size. What it depends on lies in one buffer
at fixed places, filled by one copy. Logits and sampling are launched separately, as what a step samples with may change
from step to step; small steps that only want likeliest tokens, or have them drawn, have graphs for these, too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lightllm.base import log
from lightllm.base.step import StepPlan
from lightllm.compute import ops
from lightllm.compute.execution.rows import Rows
from lightllm.compute.layers.batch import Batch
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.transfers import Upload

_log = log.get(__name__)
_WIDE, _NARROW = 2, 4  # lines of the buffer, of int64 and of int32
_ALIGN = 4  # numbers: kernels are compiled once more for addresses that are not multiples of 16 bytes
MOST_CHOOSING = 64  # sequences; larger steps take the device longer than it takes the host to launch sampling
# From each of these sizes on, the next ones are this much larger.
_GAPS = ((1, 1), (2, 2), (4, 4), (8, 8), (256, 32), (512, 64))

Compute = Callable[[], Tensor]
Choose = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    # What graphs have been recorded for: see Choices.
    likeliest: Compute | None = None
    drawn: Compute | None = None


@dataclass(frozen=True, slots=True)
class Choices:
    """Ways to choose tokens after hidden states [n, hidden] of rows [n] that have lengths [n]: the likeliest, or drawn
    as their rows ask for. They return [n] int64, which the rows remember."""

    likeliest: Choose
    drawn: Choose


def sizes_up_to(most: int, gaps: Sequence[tuple[int, int]] = _GAPS) -> list[int]:
    """Sizes of steps to record graphs for, so that, from the second on, less than half of a step is padding; `most` is
    the last. gaps: (first size, how much larger the next one is), and so on for sizes from there on."""
    sizes, size = [], gaps[0][0]
    while size < most:
        sizes.append(size)
        size += next(gap for first, gap in reversed(gaps) if size >= first)
    return [*sizes, most] if most > 0 else []


def largest_first(sizes: Sequence[int], what: str) -> Iterator[int]:
    """Sizes in the order to record them: the smaller ones then find room in the memory of the larger. Logs progress."""
    for done, size in enumerate(sorted(sizes, reverse=True), start=1):
        yield size
        if 4 * done // len(sizes) > 4 * (done - 1) // len(sizes):
            _log.info("CUDA graphs of %s: %d of %d captured", what, done, len(sizes))


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
        most_read_again: int = 0,
        choices: Choices | None = None,
    ):
        """most_read_again: tokens of contexts that the chunks of a step may read, counted for each of their tokens.
        choices: are recorded for small steps if there are any.
        """
        self._most_read_again = most_read_again
        self._model, self._rows, self._upload = model, rows, upload
        self._sizes = np.array(sorted(sizes), np.int64)
        most, device = max(sizes), rows.slot_table.device
        self._buffer = torch.zeros(_words(most), dtype=torch.int64, device=device)
        self._query_start = torch.arange(most + 1, dtype=torch.int32, device=device)
        self._padding = {size: _padding(size, rows.hold_row, hold_slot) for size in sizes}
        self._recorded: dict[int, tuple[Callable[[], object], Sampling]] = {}
        for size in largest_first(sizes, "decode steps"):
            self._fill(None, size)
            replay, hidden = record(lambda size=size: self._compute(size))
            row, length, *_ = self._lines(size)
            ways = [choices.likeliest, choices.drawn] if choices is not None and size <= MOST_CHOOSING else []
            chosen = [_chosen(record, choose, hidden, row, length) for choose in ways]
            self._recorded[size] = replay, Sampling(hidden, row, length, *chosen)

    def run(self, plan: StepPlan) -> Sampling | None:
        """Launches a step, or returns None if no graph fits it."""
        size = self.size_for(plan)
        if size is None:
            return None
        self._fill(plan, size)
        replay, padded = self._recorded[size]
        replay()
        count = len(plan.rows)
        if len(plan.tokens) == count and plan.samples.all():
            firsts = (_first(count, choose) for choose in (padded.likeliest, padded.drawn))
            return Sampling(padded.hidden[:count], padded.row[:count], padded.length[:count], *firsts)
        which = np.flatnonzero(plan.samples)
        last = (np.cumsum(plan.counts) - 1)[which]
        last, row, length = self._upload.together(
            *(x.astype(np.int64) for x in (last, plan.rows[which], (plan.starts + plan.counts)[which]))
        )
        return Sampling(padded.hidden.index_select(0, last), row, length)

    def size_for(self, plan: StepPlan) -> int | None:
        """The size that a plan is padded to. None if it is too large, or changes more of the slot table than where its
        own tokens go."""
        count = len(plan.tokens)
        if count > self._sizes[-1]:
            return None
        is_plain = np.array_equal(plan.update_starts, plan.starts) and np.array_equal(plan.update_counts, plan.counts)
        if not is_plain or (count > len(plan.rows) and _read_again(plan) > self._most_read_again):
            return None
        return int(self._sizes[np.searchsorted(self._sizes, count)])

    def _fill(self, plan: StepPlan | None, size: int) -> None:
        """Writes a plan into the buffer, or padding only.

        Lines: of int64 rows and lengths; of int32 tokens, positions, slots and lengths.
        """
        packed = self._padding[size].copy()
        if plan is not None:
            wide, narrow = _host_lines(packed, size)
            count, rows, positions = len(plan.tokens), plan.rows, plan.starts
            if count > len(rows):
                begins = plan.starts - (np.cumsum(plan.counts) - plan.counts)
                rows, positions = np.repeat(rows, plan.counts), np.repeat(begins, plan.counts) + np.arange(count)
            wide[0, :count], narrow[0, :count] = rows, plan.tokens
            narrow[1, :count], narrow[2, :count] = positions, plan.update_slots
            wide[1, :count] = narrow[3, :count] = positions + 1
        self._upload.into(self._buffer[: len(packed)], packed)

    def _lines(self, size: int) -> tuple[Tensor, ...]:
        """The buffer's lines for a size."""
        width = _width(size)
        wide, narrow = self._buffer[: _words(size)].split([_WIDE * width, (_NARROW * width) // 2])
        lines = (*wide.split(width), *narrow.view(torch.int32).split(width))
        return tuple(line[:size] for line in lines)

    def _compute(self, size: int) -> Tensor:
        """What is recorded: hidden states [size, hidden] of the step that lies in the buffer."""
        row, _, tokens, starts, new_slots, lengths = self._lines(size)
        rows, one_each = self._rows, self._query_start[: size + 1]
        tokens, positions, slots = ops.prepare_step(
            tokens, row, one_each, one_each, starts, starts, new_slots, *rows.tensors
        )
        sequences = Sequences(
            slot_table=rows.slot_table,
            row=row,
            query_start=one_each,
            lengths=lengths,
            decodes=size,
            query_lengths=[],
            context_lengths=[],
        )
        return self._model(Batch(tokens, positions, slots, sequences))


def _chosen(record: Recorder, choose: Choose, hidden: Tensor, row: Tensor, length: Tensor) -> Compute:
    """What launches a recorded choice."""
    replay, outcome = record(lambda: choose(hidden, row, length))

    def replayed() -> Tensor:
        replay()
        return outcome

    return replayed


def _first(count: int, choose: Compute | None) -> Compute | None:
    """The choice of as many tokens as are no padding."""
    return None if choose is None else lambda: choose()[:count]


def _read_again(plan: StepPlan) -> int:
    """Tokens that the chunks of a plan see, counted for each of their tokens."""
    counts = plan.counts.astype(np.int64)
    return int((counts * plan.starts + counts * (counts + 1) // 2)[counts > 1].sum())


def _padding(size: int, hold_row: int, hold_slot: int) -> np.ndarray:
    """What the buffer holds of a step without sequences."""
    packed = np.empty(_words(size), np.int64)
    wide, narrow = _host_lines(packed, size)
    wide.T[:], narrow.T[:] = (hold_row, 1), (0, 0, hold_slot, 1)
    return packed


def _host_lines(packed: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Its lines of int64 and those of int32."""
    width = _width(size)
    return packed[: _WIDE * width].reshape(_WIDE, width), packed[_WIDE * width :].view(np.int32).reshape(_NARROW, width)


def _width(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _words(size: int) -> int:
    """Of 8 bytes, in the buffer."""
    return (2 * _WIDE + _NARROW) * _width(size) // 2


def compute_again(compute: Compute) -> tuple[Callable[[], object], Tensor]:
    """In the place of a recorder where there is no device to record: what replays just computes."""
    outcome = compute()
    return lambda: outcome.copy_(compute()), outcome


class CudaRecorder:
    """Records CUDA graphs that share memory: they must be replayed one after another, on one stream."""

    def __init__(self, device: torch.device, briefly: Callable[[], AbstractContextManager[None]] = nullcontext):
        """briefly: while it lasts, computing is enough to meet every kernel, and takes less time."""
        self._briefly = briefly
        self._stream = torch.cuda.Stream(device)  # recording needs one by itself
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> tuple[Callable[[], None], Tensor]:
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            # Once outside the graph: loads kernels, and makes what libraries keep.
            with self._briefly():
                compute()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            outcome = compute()
            graph.capture_end()
        return graph.replay, outcome
