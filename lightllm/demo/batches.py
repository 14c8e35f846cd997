"""Batches of training tokens, made by worker processes while the model trains."""

import os
from collections.abc import Iterator
from itertools import islice
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightllm.demo.layout import ASSISTANT_OPENING, TURN_END
from lightllm.demo.mixture import sample_texts
from lightllm.demo.tasks import tasks_within

# Texts that are sorted by length together; the more, the less padding.
POOL_TEXTS = 8000

# tokens [rows, length]; the flat positions at which a token is to be predicted; those tokens.
Batch = tuple[Tensor, Tensor, Tensor]


def learned(ids: np.ndarray, opening: list[int], turn_end: int) -> np.ndarray:
    """Which tokens of a chat the model has to write: each assistant turn and its end; all of a plain text."""
    starts = [i + len(opening) for i in np.flatnonzero(ids == opening[0]) if list(ids[i : i + len(opening)]) == opening]
    mask = np.full(len(ids), not starts)
    ends = np.flatnonzero(ids == turn_end)
    for start in starts:
        mask[start : ends[np.searchsorted(ends, start)] + 1] = True
    return mask


def pad(rows: list[np.ndarray], masks: list[np.ndarray]) -> Batch:
    length = -(-max(map(len, rows)) // 16) * 16
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=bool)
    for i, (row, learn) in enumerate(zip(rows, masks, strict=True)):
        tokens[i, : len(row)], mask[i, : len(row)] = row, learn
    # The first token is predicted by nothing.
    mask[:, 0] = False
    positions = np.flatnonzero(mask)
    return torch.from_numpy(tokens), torch.from_numpy(positions - 1), torch.from_numpy(tokens.reshape(-1)[positions])


class ChatBatches(IterableDataset):
    """Endless batches of about `batch_tokens`, rows of like length together; the seed and the worker say which.

    No row is longer than `context`.
    """

    def __init__(self, tokenizer: str, *, batch_tokens: int, context: int, seed: int):
        self.tokenizer, self.batch_tokens, self.context, self.seed = tokenizer, batch_tokens, context, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        random = Random(f"{self.seed} {worker.id if worker else 0}")
        tokenizer = Tokenizer.from_str(self.tokenizer)
        opening, [turn_end] = tokenizer.encode(ASSISTANT_OPENING).ids, tokenizer.encode(TURN_END).ids
        texts = sample_texts(random, tasks_within(self.context))
        while True:
            encodings = tokenizer.encode_batch(list(islice(texts, POOL_TEXTS)))
            rows = sorted((np.array(one.ids) for one in encodings if len(one.ids) <= self.context), key=len)
            batches = list(self.cut(rows))
            random.shuffle(batches)
            for batch in batches:
                yield pad(batch, [learned(row, opening, turn_end) for row in batch])

    def cut(self, rows: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Runs of rows whose padded size stays within the batch."""
        batch: list[np.ndarray] = []
        for row in rows:
            if batch and len(row) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        # A lone row would be a shape that has to be compiled anew.
        if len(batch) > 1:
            yield batch


def load_batches(tokenizer: Tokenizer, *, batch_tokens: int, context: int, seed: int, workers: int) -> Iterator[Batch]:
    # Each worker is one thread; the tokenizer's own threads would fight with the other workers'.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    data = ChatBatches(tokenizer.to_str(), batch_tokens=batch_tokens, context=context, seed=seed)
    prefetch, pin = 8 if workers else None, torch.cuda.is_available()
    return iter(DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=prefetch, pin_memory=pin))
