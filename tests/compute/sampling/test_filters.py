import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lightllm.compute.sampling.filters import candidates

VOCABULARY = 500


def parameters(top_k, top_p, min_p):
    return torch.tensor(top_k), torch.tensor(top_p), torch.tensor(min_p)


def spread(values, tokens, vocabulary=VOCABULARY):
    """Candidates as logits over the whole vocabulary."""
    return torch.full((len(values), vocabulary), float("-inf")).scatter_(1, tokens, values)


def naive(logits, top_k, top_p, min_p):
    """One row, in numpy: the tokens that pass."""
    order = np.argsort(-logits, kind="stable")
    passing = logits[order] >= logits[order[top_k - 1]]
    probability = np.where(passing, np.exp(logits[order] - logits.max()), 0)
    probability /= probability.sum()
    passing &= np.cumsum(probability) - probability < top_p
    passing &= probability >= min_p * probability.max()
    return set(order[passing].tolist())


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


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0], ids=["flat", "usual", "peaked"])
def test_equals_a_naive_filter_of_each_row(scale):
    torch.manual_seed(0)
    logits = torch.randn(len(ROWS), VOCABULARY).double().mul(scale).float()
    kept = spread(*candidates(logits, *parameters(*zip(*ROWS, strict=True))))
    for row, (filters, logit) in enumerate(zip(ROWS, logits, strict=True)):
        passing = kept[row].isfinite()
        assert set(passing.nonzero().flatten().tolist()) == naive(logit.double().numpy(), *filters), filters
        assert torch.equal(kept[row][passing], logit[passing])


def test_a_row_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    logits = torch.randn(len(ROWS), VOCABULARY) * 3
    together = spread(*candidates(logits, *parameters(*zip(*ROWS, strict=True))))
    for row, filters in enumerate(ROWS):
        alone = spread(*candidates(logits[row : row + 1], *parameters(*([x] for x in filters))))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("widths", [(VOCABULARY,), (8,), (1, 2, 4, 8, 16)])
def test_how_many_tokens_are_looked_at_first_does_not_matter(widths):
    torch.manual_seed(1)
    logits = torch.randn(len(ROWS), VOCABULARY) * 3
    filters = parameters(*zip(*ROWS, strict=True))
    assert torch.equal(spread(*candidates(logits, *filters, widths=widths)), spread(*candidates(logits, *filters)))


def test_equals_transformers_warpers():
    torch.manual_seed(0)
    logits = torch.randn(8, VOCABULARY) * 3
    expected = logits
    warpers = (TemperatureLogitsWarper(0.7), TopKLogitsWarper(40), TopPLogitsWarper(0.9), MinPLogitsWarper(0.02))
    for warper in warpers:
        expected = warper(None, expected)
    got = spread(*candidates(logits / 0.7, *parameters([40] * 8, [0.9] * 8, [0.02] * 8)))
    assert torch.equal(got, expected)


def test_equal_logits_are_kept_or_dropped_together():
    logits = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0, 0.0]])
    kept = spread(*candidates(logits, *parameters([3], [1.0], [0.0]), widths=(3,)), 6)
    assert kept.isfinite().tolist() == [[True, True, True, True, True, False]]


def test_forbidden_tokens_stay_forbidden():
    logits = torch.tensor([[2.0, float("-inf"), 1.0, float("-inf")]])
    for filters in ([3], [1.0], [0.0]), ([4], [0.999], [0.0]), ([4], [1.0], [0.5]):
        assert spread(*candidates(logits, *parameters(*filters)), 4).isfinite().sum() <= 2
