"""Noise, draw and logprobs, the references and what runs on a CPU, against older sources of the truth."""

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lightllm.compute import ops
from lightllm.compute.kernels.cpu import sampling as cpu
from lightllm.compute.ops.sampling import gumbel

VOCABULARY = 120
MASK = 2**64 - 1
both = pytest.mark.parametrize("draw", [ops.draw.reference, cpu.draw], ids=["reference", "cpu"])


def splitmix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def chi_square(observed, expected):
    """Distance from `expected` in standard deviations of the chi-square distribution."""
    freedom = max(len(expected) - 1, 1)
    return (((observed - expected) ** 2 / expected).sum() - len(expected) + 1) / np.sqrt(2 * freedom)


def lowbias(x, key):
    x = (x + key) % 2**32
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = ((x ^ (x >> 15)) ^ (key >> 32)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("noise", [gumbel, cpu._gumbel], ids=["reference", "cpu"])
def test_noise_is_a_hash_of_seed_position_and_token(noise):
    seeds, positions, tokens = [0, 7, -1, 2**62 + 5], [0, 3, 1000, 9], [0, 1, 151_935]
    got = noise(torch.tensor(seeds), torch.tensor(positions), torch.tensor(tokens))
    for seed, position, row in zip(seeds, positions, got, strict=True):
        key = splitmix((splitmix(seed & MASK) + position) & MASK)
        bits = np.array([lowbias(token, key) for token in tokens])
        np.testing.assert_allclose(row, -np.log(-np.log1p(-(bits + 0.5) / 2**32)), rtol=1e-5)


def test_noise_of_neighbours_is_independent():
    """Quantiles of neighbouring tokens, positions and seeds fill a square of 16 by 16 evenly, at distances 1 to 4."""
    seeds, tokens = torch.arange(64), torch.arange(4096)
    noise = torch.stack([gumbel(seeds, torch.full_like(seeds, position), tokens) for position in range(5)])
    quantile = (16 * torch.exp(-torch.exp(-noise.double()))).long()
    for axis in range(3):
        for distance in (1, 2, 4):
            count = quantile.shape[axis] - distance
            pairs = 16 * quantile.narrow(axis, 0, count) + quantile.narrow(axis, distance, count)
            counts = torch.bincount(pairs.flatten(), minlength=256).numpy()
            assert abs(chi_square(counts, np.full(256, counts.sum() / 256))) < 4, (axis, distance)


def test_noise_is_uniform_over_tokens_positions_and_seeds():
    steps = torch.arange(1 << 16)
    fixed = torch.full_like(steps, 12)
    for seeds, positions, tokens in [
        (fixed[:1], fixed[:1], steps),
        (fixed, steps, fixed[:1]),
        (steps, fixed, fixed[:1]),
    ]:
        quantile = torch.exp(-torch.exp(-gumbel(seeds, positions, tokens).double())).flatten().numpy()
        counts, _ = np.histogram(quantile, bins=256, range=(0, 1))
        assert abs(chi_square(counts, np.full(256, len(steps) / 256))) < 4


def test_noise_is_finite():
    noise = gumbel(torch.arange(2000), torch.zeros(2000, dtype=torch.int64), torch.arange(5000))
    assert noise.isfinite().all()
    assert -3 < noise.min() < noise.max() < 23


def arguments(rows, *, temperature=1.0, top_k=VOCABULARY, top_p=1.0, min_p=0.0, seed=42):
    """Those of draw beside logits, for `rows` positions of one sequence."""
    floats = (torch.full((rows,), value) for value in (top_p, min_p))
    seeds, positions = torch.full((rows,), seed), torch.arange(rows)
    return torch.full((rows,), temperature), torch.full((rows,), top_k), *floats, seeds, positions


FILTERS = [
    {},
    {"temperature": 0.7, "top_k": 5},
    {"top_p": 0.8},
    {"temperature": 2.0, "min_p": 0.1},
    {"temperature": 1.3, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
    {"top_k": 100, "top_p": 0.999},
]


def filtered(logits, temperature=1.0, top_k=VOCABULARY, top_p=1.0, min_p=0.0):
    """Probabilities [vocab] that transformers would draw with."""
    warpers = [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    for warper in warpers:
        logits = warper(None, logits)
    return logits[0].double().softmax(-1).numpy()


@both
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_draws_follow_the_distribution_that_transformers_filters_leave(draw, filters):
    torch.manual_seed(0)
    logits, draws = torch.randn(1, VOCABULARY) * 2, 20_000
    counts = np.bincount(draw(logits.expand(draws, -1), *arguments(draws, **filters)), minlength=VOCABULARY)
    expected = filtered(logits, **filters) * draws
    assert not counts[expected == 0].any()
    often = expected >= 5
    observed, wanted = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    assert abs(chi_square(observed[wanted > 0], wanted[wanted > 0])) < 4


@both
def test_temperature_zero_is_the_largest_logit_and_a_tiny_one_nearly_so(draw):
    torch.manual_seed(0)
    logits = torch.randn(7, VOCABULARY)
    for temperature in (0.0, 1e-6, 1e-40):
        assert torch.equal(draw(logits, *arguments(7, temperature=temperature)), logits.argmax(-1))


@both
def test_forbidden_tokens_are_never_drawn(draw):
    logits = torch.full((500, VOCABULARY), float("-inf"))
    logits[:, 3], logits[:, 90] = 0, 1
    for filters in FILTERS:
        assert set(draw(logits, *arguments(500, **filters)).tolist()) <= {3, 90}


@both
def test_a_draw_does_not_depend_on_its_neighbours(draw):
    torch.manual_seed(0)
    rows = [arguments(20, **filters, seed=seed) for seed, filters in enumerate([{"temperature": 0.0}, *FILTERS])]
    logits = torch.randn(20 * len(rows), VOCABULARY) * 3
    together = [torch.cat(values) for values in zip(*rows, strict=True)]
    mixed = torch.randperm(len(logits))
    got = draw(logits[mixed], *(values[mixed] for values in together))
    assert torch.equal(got, draw(logits, *together)[mixed])
    for i in range(0, len(logits), 9):
        assert draw(logits[i : i + 1], *(values[i : i + 1] for values in together)) == got[mixed.argsort()[i]]


def test_equal_logits_pass_or_fail_together():
    logits = torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0, 0.0]]).expand(2000, -1)
    for draw in (ops.draw.reference, cpu.draw):
        assert set(draw(logits, *arguments(2000, top_k=3, temperature=5.0)).tolist()) == {0, 1, 2, 3, 4}


def test_logprobs_are_log_softmax():
    torch.manual_seed(0)
    logits, tokens = torch.randn(4, 300) * 5, torch.tensor([0, 299, 7, 7])
    chosen, top_tokens, top = ops.logprobs.reference(logits, tokens, 5)
    expected = logits.double().log_softmax(-1)
    torch.testing.assert_close(chosen.double(), expected[range(4), tokens], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(top.double(), expected.topk(5).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(top_tokens, expected.topk(5).indices)
