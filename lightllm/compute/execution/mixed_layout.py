"""How a mixed step is padded to a number of tokens: in one run of bytes on the host, as in one on the device."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightllm.base.step import StepPlan
from lightllm.compute.transfers import starts_in_one

Numbers = Any  # np.ndarray on the host, Tensor on the device


class Layout(NamedTuple):
    """What the device has to know of a padded step: T tokens, D places of decodes, S places of sequences in all."""

    tokens: Numbers  # [T] int32: see StepPlan
    row: Numbers  # [S + T] int64
    query_start: Numbers  # [S + T + 1] int32
    starts: Numbers  # [S + T] int32: position of each sequence's first token
    lengths: Numbers  # [S] int32
    # Changes of the slot table, if they are not more than T: see ops.prepare_step.
    slot_start: Numbers  # [S + T + 1] int32
    told: Numbers  # [S + T] int32
    new_slots: Numbers  # [T] int32
    wanted_token: Numbers  # [D] int64: see Wanted
    wanted_row: Numbers  # [D] int64
    wanted_start: Numbers  # [D + 1] int32
    wanted_lengths: Numbers  # [D] int32
    wanted_length: Numbers  # [D] int64


class PaddedStep:
    """A step of up to `size` tokens: decodes, then chunks, each kind with a fixed number of places for its sequences;
    those that are left have no tokens. Then a sequence for each padded token, which run in the hold row."""

    def __init__(self, size: int, *, decodes: int, chunks: int, hold_row: int):
        self.size, self.decodes, self.places = size, decodes, decodes + chunks
        sequences = self.places + size
        parts = Layout(
            tokens=(size, np.int32),
            row=(sequences, np.int64),
            query_start=(sequences + 1, np.int32),
            starts=(sequences, np.int32),
            lengths=(self.places, np.int32),
            slot_start=(sequences + 1, np.int32),
            told=(sequences, np.int32),
            new_slots=(size, np.int32),
            wanted_token=(decodes, np.int64),
            wanted_row=(decodes, np.int64),
            wanted_start=(decodes + 1, np.int32),
            wanted_lengths=(decodes, np.int32),
            wanted_length=(decodes, np.int64),
        )
        self._parts = [(count, np.dtype(kind)) for count, kind in parts]
        self.bytes = np.zeros(starts_in_one(self._sizes)[-1], np.uint8)
        self._layout = Layout(*(self.bytes[where].view(kind) for where, kind in self._runs()))
        self._layout.row[:], self._layout.wanted_row[:] = hold_row, hold_row
        self._layout.query_start[1 + self.places :] = 1
        self._empty = self.bytes.copy()
        self._numbers = np.arange(decodes + 1, dtype=np.int32)

    @property
    def _sizes(self) -> list[int]:
        return [count * kind.itemsize for count, kind in self._parts]

    def _runs(self) -> Iterator[tuple[slice, np.dtype]]:
        for start, size, (_, kind) in zip(starts_in_one(self._sizes), self._sizes, self._parts, strict=False):
            yield slice(start, start + size), kind

    def on_device(self, buffer: Tensor) -> Layout:
        """The same parts of these bytes."""
        kinds = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64}
        return Layout(*(buffer[where].view(kinds[kind]) for where, kind in self._runs()))

    def takes_changes(self, plan: StepPlan) -> bool:
        """Whether what a plan changes in the slot table has room here."""
        return len(plan.update_slots) <= self.size

    def fill(self, plan: StepPlan) -> None:
        """Lays out a plan that fits."""
        self.bytes[:] = self._empty
        to, tokens, chunks = self._layout, len(plan.tokens), np.count_nonzero(plan.counts > 1)
        where = np.arange(len(plan.rows))
        where[len(where) - chunks :] += self.decodes - (len(where) - chunks)
        ends = plan.starts + plan.counts
        to.tokens[:tokens] = plan.tokens
        to.row[where], to.starts[where], to.lengths[where] = plan.rows, plan.starts, ends
        to.query_start[1 + where] = plan.counts
        to.query_start[1 + self.places + self.size - tokens :] = 0
        np.cumsum(to.query_start, out=to.query_start)
        if self.takes_changes(plan):
            to.told[where], to.slot_start[1 + where] = plan.update_starts, plan.update_counts
            np.cumsum(to.slot_start, out=to.slot_start)
            to.new_slots[: len(plan.update_slots)] = plan.update_slots
        sampled = where[plan.samples]
        count = len(sampled)
        to.wanted_token[:count] = to.query_start[1 + sampled] - 1
        to.wanted_row[:count] = to.row[sampled]
        to.wanted_lengths[:count] = to.wanted_length[:count] = to.lengths[sampled]
        np.minimum(self._numbers, count, out=to.wanted_start)
