"""Words of all rows, one row's after another's, in one tensor."""

import numpy as np
import torch
from torch import Tensor

from lightllm.compute.transfers import Upload

_FEWEST = 1 << 12


class Words:
    """`tensor` [capacity] int64 on the device; row r's words lie in it from start[r] on. Rows that begin go to the end;
    when that is reached, what rows had before is dropped, and all is told again."""

    def __init__(self, rows: int, upload: Upload):
        self._upload, self._of_row = upload, [np.zeros(0, np.int64)] * rows
        self.tensor: Tensor = torch.zeros(0, dtype=torch.int64, device=upload.device)
        self.start = np.zeros(rows, np.int64)
        self._end = 0

    def begin(self, rows: np.ndarray, words: list[np.ndarray]) -> None:
        """Each of the rows has these words from now on; what it had before is nobody's."""
        for row, its_words in zip(rows.tolist(), words, strict=True):
            self._of_row[row] = its_words.astype(np.int64)
        count = sum(map(len, words))
        if self._end + count > len(self.tensor):
            self._pack()
        elif count:
            added = np.concatenate([self._of_row[row] for row in rows.tolist()])
            self.tensor[self._end : self._end + count].copy_(self._upload(added))
            self._place(rows)

    def _pack(self) -> None:
        """Everything anew, with as much room again."""
        rows = np.flatnonzero([len(words) > 0 for words in self._of_row])
        packed = np.concatenate([self._of_row[row] for row in rows.tolist()])
        capacity = max(_FEWEST, 1 << int(2 * len(packed) - 1).bit_length())
        self.tensor = self._upload(np.pad(packed, (0, capacity - len(packed))))
        self._end = 0
        self._place(rows)

    def _place(self, rows: np.ndarray) -> None:
        lengths = np.array([len(self._of_row[row]) for row in rows.tolist()], np.int64)
        self.start[rows] = self._end + np.cumsum(lengths) - lengths
        self._end += int(lengths.sum())
