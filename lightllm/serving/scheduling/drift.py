"""How far back outputs are alike: when requests change, what was learned from those before misleads.

The newest outputs are compared with those before them, split at several ages. Of all that became at least as long as
L, one ended at L; were old and new alike, it would be one of the new with the probability of their share. Summed over
all lengths, the number of the new that ended less its expectation is, in standard deviations, z:

    z = sum(is_new - share) / sqrt(sum(share * (1 - share)))

Outputs that still run count as long as they have been seen, so a change to longer ones shows before the first of them
ends. Source: N. Mantel, Evaluation of survival data and two new rank order statistics, 1966 (the log-rank test).
"""

import numpy as np
from numpy.typing import NDArray

from lightllm.serving.scheduling.peak_memory import Counts

_NEWEST = np.array([16, 32, 64, 128, 256, 512])  # outputs that are compared with all before them
_FEWEST = 16  # of these
# Differences by chance should not cost what is known: with so many looks 3 is met now and then, 4 hardly.
_MOST_BY_CHANCE = 4.0


def newest_alike(order: Counts, lengths: Counts, has_ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of m outputs are alike: [m], all or the newest, those since the plainest change.

    order [m] of their requests' arrival; lengths [m] reached so far, or in the end.
    """
    count = len(order)
    newest = _NEWEST[count - _NEWEST >= _FEWEST]
    if not len(newest):
        return np.ones(count, dtype=np.bool_)
    age = np.empty(count, dtype=np.int64)
    age[np.argsort(-order, kind="stable")] = np.arange(count)
    # Of equal lengths, what has ended first: what goes on was at risk when it did.
    by_length = np.lexsort((~has_ended, lengths))
    ends = np.flatnonzero(has_ended[by_length])
    is_new = age[by_length] < newest[:, None]
    num_new = np.cumsum(is_new[:, ::-1], axis=1)[:, ::-1][:, ends]
    share = num_new / (count - ends)
    deviation = (is_new[:, ends] - share).sum(axis=1)
    z = np.abs(deviation) / np.sqrt(np.maximum((share * (1 - share)).sum(axis=1), 1e-9))
    plainest = int(z.argmax())
    return age < (newest[plainest] if z[plainest] > _MOST_BY_CHANCE else count)
