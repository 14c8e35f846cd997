"""How many slots a batch needs at its worst moment if every request runs to its end.

Every request takes one slot a step and gives all of its slots back at its end, so the need can only peak where some
request is about to end. Longest-lived first, when request k ends requests 1..k are alive, each grown by remaining_k:

    peak = max over k of  remaining_k * k + sum of held_i for i <= k
"""

import numpy as np
from numpy.typing import NDArray


def peak_tokens(held: NDArray[np.int64], remaining: NDArray[np.int64]) -> int:
    """held [n] slots held now, remaining [n] steps still to live. Returns slots; 0 if n is 0. O(n log n)."""
    if not len(held):
        return 0
    order = np.argsort(-remaining, kind="stable")
    alive = np.arange(1, len(held) + 1)
    return int((remaining[order] * alive + np.cumsum(held[order])).max())
