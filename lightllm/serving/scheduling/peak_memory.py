"""How many slots a batch needs at its worst moment if every request runs to its end.

Every request takes one slot a step and gives all of its slots back at its end, so the need can only peak where some
request is about to end. Longest-lived first, when request k ends requests 1..k are alive, each grown by remaining_k:

    peak = max over k of  remaining_k * k + sum of held_i for i <= k

What several requests share is an entry of its own that does not grow and lives as long as the last of its holders.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

# One integer sorts by what is in its upper bits and carries the rest along: a third of the time of argsort and take.
_HELD_BITS = 33  # held < 2**32, and a bit for `grows`


def peak_tokens(held: Counts, remaining: Counts) -> int:
    """held [n] slots held now, remaining [n] steps still to live. Returns slots; 0 if n is 0. O(n log n)."""
    return int(peaks(held, np.ones(len(held), dtype=np.int64), remaining[None])[0])


def peaks(held: Counts, grows: Counts, remaining: Counts) -> Counts:
    """The peak under each of several assumptions about how long the entries live: [samples].

    held [n] slots held now; grows [n]: 1 for a request, 0 for what requests share; remaining [samples, n] steps still
    to live, all below 2**30. 0 if n is 0.
    """
    if not len(held):
        return np.zeros(len(remaining), dtype=np.int64)
    entries = np.sort(remaining << _HELD_BITS | (held << 1 | grows), axis=1)[:, ::-1]
    alive = np.cumsum(entries & 1, axis=1)
    total = np.cumsum((entries & (1 << _HELD_BITS) - 1) >> 1, axis=1)
    return ((entries >> _HELD_BITS) * alive + total).max(axis=1)
