"""What the scheduler keeps for each running request: one array per field, so that a step costs no Python per request.

[0, in_tree)       slots of the prefix tree, which this row holds
[in_tree, length)  slots of its own
[0, told)          slots that the workers have been told of
[0, goal)          tokens known when it began: prefill runs up to here, the last of them samples
[0, limit)         tokens that get a slot at all: prompt plus max_tokens, less the last token, which nothing reads
[0, common)        tokens known to be the same as those of all rows of its `family` that go as far
"""

import heapq

import numpy as np

from lightllm.serving.scheduling.prefix_tree import ROOT
from lightllm.serving.scheduling.request import Request

_NO_TOKEN = -1
_NO_FAMILY = -1
_NOBODY = np.zeros(0, dtype=np.int64)
_SAME_NAME = (
    "index",
    "generation",
    "order",
    "prompt_length",
    "max_tokens",
    "min_tokens",
    "max_tokens_given",
    "can_stop",
    "num_preemptions",
    "priority",
    "has_grammar",
)


class Rows:
    """A line per row. `slots` [rows, longest] is the slot table as the workers will see it."""

    def __init__(self, num_rows: int, longest: int):
        def column(kind: type) -> np.ndarray:
            return np.zeros(num_rows, dtype=kind)

        self.takes_part = column(np.bool_)  # False: free, or preempted with a result outstanding
        self.epoch = column(np.int64)  # raised when the row changes hands, so that late results are recognized
        self.index, self.generation, self.order = column(np.int64), column(np.uint32), column(np.int64)
        self.prompt_length, self.max_tokens, self.min_tokens = column(np.int64), column(np.int64), column(np.int64)
        self.max_tokens_given = column(np.bool_)
        self.goal, self.limit, self.length = column(np.int64), column(np.int64), column(np.int64)
        self.in_tree, self.told, self.node = column(np.int64), column(np.int64), column(np.int32)
        self.family, self.common = column(np.int64), column(np.int64)  # family -1: none
        self.has_grammar = column(np.bool_)
        self.can_stop = column(np.bool_)  # False: generates max_tokens
        self.is_beam = column(np.bool_)  # its next token is not what it samples, so it runs no further than `goal`
        self.scores = column(np.bool_)  # computes tokens whatever the tree has, to have them scored
        self.num_preemptions, self.priority = column(np.int64), column(np.int64)
        self.num_stops, self.stop_tokens = column(np.int64), np.full((num_rows, 8), _NO_TOKEN, dtype=np.int32)
        # Pages of lines that are never used that far take no memory.
        self.slots = np.zeros((num_rows, longest), dtype=np.int32)
        self.requests: list[Request | None] = [None] * num_rows
        self._free = list(range(num_rows))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def seat(self, request: Request) -> int:
        """Gives the request the lowest free row, with no slots yet."""
        assert request.tokens is not None, "what begins has tokens"
        row = request.row = heapq.heappop(self._free)
        self.requests[row] = request
        for name in _SAME_NAME:
            getattr(self, name)[row] = getattr(request, name)
        self.goal[row], self.limit[row] = len(request.tokens), request.prompt_length + request.max_tokens - 1
        self.is_beam[row] = request.group is not None
        if self.is_beam[row]:
            self.limit[row] = self.goal[row]
        self.family[row], self.common[row] = _NO_FAMILY, 0
        self.scores[row] = request.num_findable < len(request.tokens) - 1
        self._set_stop_tokens(row, request.stop_tokens)
        self.forget_slots(row)
        self.takes_part[row] = True
        return row

    def found_family(self, row: int) -> tuple[int, int]:
        """The family of this row, which is the first of it if there was none, and its `common`."""
        if self.family[row] == _NO_FAMILY:
            self.family[row], self.common[row] = self.order[row], self.goal[row] - 1
        return int(self.family[row]), int(self.common[row])

    def forget_slots(self, row: int) -> None:
        self.length[row] = self.in_tree[row] = self.told[row] = 0
        self.node[row] = ROOT

    def leave(self, request: Request) -> None:
        """The row is free again; results of steps in flight are nobody's."""
        row, request.row = request.row, -1
        self.requests[row] = None
        self.takes_part[row] = False
        self.epoch[row] += 1
        heapq.heappush(self._free, row)

    def decoding(self) -> np.ndarray:
        """Rows whose next step runs the token they sampled last."""
        if self._is_empty:
            return _NOBODY
        return (self.takes_part & (self.length >= self.goal) & (self.length < self.limit)).nonzero()[0]

    def prefilling(self) -> np.ndarray:
        """Rows that have not run all known tokens, oldest request first."""
        if self._is_empty:
            return _NOBODY
        return self._oldest_first(self.takes_part & (self.length < self.goal))

    def taking_part(self) -> np.ndarray:
        """Rows with requests that run, oldest first."""
        return self._oldest_first(self.takes_part)

    def are_stops(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Whether tokens[i] is a stop token of rows[i]: [n] bool."""
        width = int(self.num_stops[rows].max(initial=0))
        if not width:
            return np.zeros(len(rows), dtype=np.bool_)
        return (self.stop_tokens[rows, :width] == tokens[:, None]).any(axis=1)

    @property
    def _is_empty(self) -> bool:
        return len(self._free) == len(self.requests)

    def _oldest_first(self, are_wanted: np.ndarray) -> np.ndarray:
        rows = are_wanted.nonzero()[0]
        return rows[np.argsort(self.order[rows])] if len(rows) > 1 else rows

    def _set_stop_tokens(self, row: int, tokens: np.ndarray) -> None:
        if (more := len(tokens) - self.stop_tokens.shape[1]) > 0:
            self.stop_tokens = np.pad(self.stop_tokens, ((0, 0), (0, more)), constant_values=_NO_TOKEN)
        self.stop_tokens[row] = _NO_TOKEN
        self.stop_tokens[row, : len(tokens)] = tokens
        self.num_stops[row] = len(tokens)
