import random

import numpy as np
import torch

from lightllm.compute.sampling import words
from tests.compute.sampling.test_sampler import upload


def test_every_row_finds_its_words_whatever_rows_begin(monkeypatch):
    monkeypatch.setattr(words, "_FEWEST", 16)
    draw = random.Random(0)
    kept, expected = words.Words(8, upload), {row: [] for row in range(8)}
    for _ in range(200):
        rows = draw.sample(range(8), draw.randint(1, 4))
        for row in rows:
            expected[row] = [draw.randint(-(2**31), 2**31 - 1) for _ in range(draw.choice([0, 0, 3, 20]))]
        kept.begin(np.array(rows), [np.array(expected[row], np.int32) for row in rows])
        for row, its_words in expected.items():
            start = kept.start[row]
            assert kept.tensor[start : start + len(its_words)].tolist() == its_words
    assert len(kept.tensor) <= 512, "what nobody has any more is dropped"


def test_nothing_is_kept_for_rows_that_want_nothing():
    kept = words.Words(4, upload)
    kept.begin(np.arange(4), [np.zeros(0, np.int32)] * 4)
    assert kept.tensor.shape == torch.Size([0])
