import numpy as np
import torch

from lightllm.compute.sampling.random import bits, gumbel

MASK = 2**64 - 1


def splitmix(x):
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def chi_square(observed, expected):
    """Distance from `expected` in standard deviations of the chi-square distribution."""
    freedom = len(expected) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def test_bits_are_splitmix_of_seed_position_and_token():
    seeds, positions, tokens = [0, 7, -1, 2**62 + 5], [0, 3, 1000, 9], [0, 1, 151_935]
    got = bits(torch.tensor(seeds), torch.tensor(positions), torch.tensor(tokens))
    for seed, position, row in zip(seeds, positions, got.tolist(), strict=True):
        start = splitmix((splitmix(seed & MASK) + position) & MASK)
        assert row == [splitmix((start + token * 0x9E3779B97F4A7C15) & MASK) >> 32 for token in tokens]


def test_noise_of_a_token_does_not_depend_on_the_other_tokens():
    seeds, positions = torch.tensor([1, 2]), torch.tensor([5, 5])
    whole = gumbel(seeds, positions, torch.arange(100))
    some = gumbel(seeds, positions, torch.tensor([[3, 50], [99, 0]]))
    assert torch.equal(some, whole.gather(1, torch.tensor([[3, 50], [99, 0]])))


def test_bits_are_uniform_over_tokens_positions_and_seeds():
    steps = torch.arange(1 << 16)
    fixed = torch.full_like(steps, 12)
    for seeds, positions, tokens in [
        (fixed[:1], fixed[:1], steps),
        (fixed, steps, fixed[:1]),
        (steps, fixed, fixed[:1]),
    ]:
        got = bits(seeds, positions, tokens).flatten()
        for shift in (0, 11, 24):
            counts = np.bincount((got >> shift & 0xFF).numpy(), minlength=256)
            assert abs(chi_square(counts, np.full(256, len(steps) / 256))) < 4


def test_noise_is_finite_and_gumbel():
    noise = gumbel(torch.arange(1000), torch.zeros(1000, dtype=torch.int64), torch.arange(1000))
    assert noise.isfinite().all()
    quantile = torch.exp(-torch.exp(-noise)).flatten().numpy()
    counts, _ = np.histogram(quantile, bins=100, range=(0, 1))
    assert abs(chi_square(counts, np.full(100, len(quantile) / 100))) < 4


def test_extreme_bits_give_finite_noise(monkeypatch):
    extremes = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr("lightllm.compute.sampling.random.bits", lambda *_: extremes)
    noise = gumbel(torch.zeros(1), torch.zeros(1), torch.zeros(2))
    assert noise.isfinite().all()
    assert noise[0, 0] > 22


def test_largest_sum_of_logit_and_noise_is_a_draw_from_softmax():
    logits = torch.tensor([2.0, 0.0, 1.0, -3.0, 0.5])
    draws = 50_000
    noise = gumbel(torch.full((draws,), 42), torch.arange(draws), torch.arange(5))
    counts = np.bincount((logits + noise).argmax(-1).numpy(), minlength=5)
    assert abs(chi_square(counts, logits.softmax(-1).numpy() * draws)) < 4
