"""Counter-based random numbers: noise is a function of (seed, position, token) and of nothing that was drawn before.

So an answer does not depend on the batch it is computed in, on the number of ranks, or on having been preempted.
Source: SplitMix64, doi:10.1145/2660193.2660195. Its n-th number is mix(start + n * GAMMA).
"""

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # torch has signed 64-bit integers only; they wrap around as needed
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)
UNIT = (1 - 2**-23) / 2**32  # [0, 2^32] -> [0, 1) in float32, which would round the largest up to 1


def _shift_xor(x: Tensor, bits: int) -> Tensor:
    """x ^= x >> bits in place, the shift being unsigned."""
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (64 - bits)) - 1))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, in place on int64."""
    x = _shift_xor(x, 30).mul_(FIRST)
    return _shift_xor(_shift_xor(x, 27).mul_(SECOND), 31)


def bits(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """32 random bits for each token: number `token` of the stream that starts at mix(mix(seed) + position).

    seeds, positions [rows] int64; tokens [rows, n] or [n] int64. Returns [rows, n] int64 in 0 ... 2^32 - 1.
    """
    start = _mix(_mix(seeds.clone()) + positions)
    x = _mix(start.unsqueeze(-1) + tokens * GAMMA)
    return (x >> 32).bitwise_and_((1 << 32) - 1)


def gumbel(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Gumbel noise for each token: -log(-log(1 - u)) with u uniform. All arguments as for `bits`.

    argmax(logits + noise) is a draw from softmax(logits). Small u matter most, and float32 resolves them finely.
    Returns [rows, n] float32, all finite.
    """
    u = bits(seeds, positions, tokens).to(torch.float32).add_(0.5).mul_(UNIT)
    return u.neg_().log1p_().neg_().log_().neg_()
