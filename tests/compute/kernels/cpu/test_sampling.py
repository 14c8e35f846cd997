"""How many tokens are looked at, and how rows are cut into lots, does not show in what is drawn."""

import numpy as np
import pytest
import torch

from lightllm.compute import ops
from lightllm.compute.kernels.cpu import sampling
from lightllm.compute.ops.op import Facts

VOCABULARY = 500
ROWS = [
    (VOCABULARY, 1.0, 0.0),
    (1, 1.0, 0.0),
    (20, 1.0, 0.0),
    (64, 1.0, 0.0),
    (65, 1.0, 0.0),
    (200, 1.0, 0.0),
    (VOCABULARY, 0.9, 0.0),
    (VOCABULARY, 0.9999, 0.0),
    (VOCABULARY, 0.01, 0.0),
    (VOCABULARY, 1.0, 0.1),
    (VOCABULARY, 1.0, 1.0),
    (20, 0.95, 0.0),
    (30, 0.7, 0.05),
    (300, 0.99, 0.001),
]
FILTERS = [torch.tensor(values) for values in zip(*ROWS, strict=True)]


def tempered(scale, seed=0):
    logits = torch.randn(len(ROWS), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale
    return logits - logits.amax(-1, keepdim=True)


def spread(values, tokens):
    """Candidates as values over the whole vocabulary."""
    return torch.full((len(values), VOCABULARY), float("-inf")).scatter_(1, tokens, values)


def naive(logits, top_k, top_p, min_p):
    """One row, in numpy: the tokens that pass."""
    order = np.argsort(-logits, kind="stable")
    passing = logits[order] >= logits[order[top_k - 1]]
    probability = np.where(passing, np.exp(logits[order] - logits.max()), 0)
    probability /= probability.sum()
    passing &= np.cumsum(probability) - probability < top_p
    passing &= probability >= min_p * probability.max()
    return set(order[passing].tolist())


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0], ids=["flat", "usual", "peaked"])
def test_candidates_are_those_of_a_naive_filter_of_each_row(scale):
    x = tempered(scale)
    kept = spread(*sampling.candidates(x, *FILTERS))
    for row, (filters, values) in enumerate(zip(ROWS, x, strict=True)):
        passing = kept[row].isfinite()
        assert set(passing.nonzero().flatten().tolist()) == naive(values.double().numpy(), *filters), filters
        assert torch.equal(kept[row][passing], values[passing])


@pytest.mark.parametrize("widths", [(VOCABULARY,), (8,), (1, 2, 4, 8, 16)])
def test_how_many_tokens_are_looked_at_first_does_not_matter(widths):
    x = tempered(3.0, seed=1)
    expected = spread(*sampling.candidates(x, *FILTERS))
    assert torch.equal(spread(*sampling.candidates(x, *FILTERS, widths=widths)), expected)


def test_lots_of_any_size_draw_the_same(monkeypatch):
    torch.manual_seed(0)
    for arguments in ops.draw.cases(Facts(torch.device("cpu"), torch.float32)):
        expected = sampling.draw(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "LOT_NUMBERS", 2 * arguments[0].shape[1])
            assert torch.equal(sampling.draw(*arguments), expected)
