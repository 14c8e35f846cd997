"""Masks of rows, kept on the device while their rows run."""

import numpy as np
import torch
from torch import Tensor

from lightllm.compute.transfers import Upload


class Masks:
    """At most one for each row; no memory is taken before there is any."""

    def __init__(self, rows: int, vocab: int, upload: Upload):
        self._rows, self._words, self._upload = rows, -(-vocab // 32), upload
        self._tensor: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """[rows, words] int32, as ops.allow takes them."""
        if self._tensor is None:
            self._tensor = torch.zeros(self._rows, self._words, dtype=torch.int32, device=self._upload.device)
        return self._tensor

    def begin(self, rows: np.ndarray, masks: list[np.ndarray]) -> None:
        """rows [n] have these masks from now on; each of int32 words, of which those beyond the vocabulary are left
        out."""
        lines = np.zeros((len(rows), self._words), np.int32)
        for line, mask in zip(lines, masks, strict=True):
            line[: len(mask)] = mask[: self._words]
        self.tensor.index_copy_(0, self._upload(rows), self._upload(lines).to(torch.int32))
