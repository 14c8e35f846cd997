"""How likely outputs are to go on: lengths that are known, and lengths that are only known to be larger than something.

Of outputs that became at least as long as L, those that ended at L are the hazard there, and an output survives L with
probability 1 - hazard; the product over all lengths seen is the share of outputs that become longer. One that still
runs, or ran into its maximum, counts among those that might have ended for as long as it was seen. Without these the
lengths of ended outputs are too short whenever outputs become longer: of what began lately the short ones end first.

Source: E. Kaplan, P. Meier, Nonparametric estimation from incomplete observations, 1958.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightllm.serving.scheduling.peak_memory import Counts

_SHARES = 2048  # steps in which the end is looked up that leaves a share of outputs: a search per draw takes a ms


@dataclass(frozen=True, slots=True)
class Survival:
    """m lengths at which outputs ended, ascending, and the share of outputs that survive the first k of these ends."""

    ends: Counts  # [m]
    share: NDArray[np.float64]  # [m + 1], from 1 down
    end_at: Counts  # [_SHARES + 1]: number of the first end that leaves at most i / _SHARES
    longest: int  # ever seen, ended or not

    @classmethod
    def of(cls, ends: Counts, unended: Counts) -> "Survival":
        """ends [m], ascending: lengths of outputs that ended by themselves; unended [c]: what others had reached."""
        unended = np.sort(unended)
        at_risk = np.arange(len(ends), 0, -1) + len(unended) - np.searchsorted(unended, ends)
        share = np.concatenate([[1.0], np.cumprod(1 - 1 / at_risk)])
        end_at = np.searchsorted(-share, np.linspace(0, -1, _SHARES + 1)) - 1
        return cls(ends, share, end_at, int(max(ends[-1:].max(initial=1), unended[-1:].max(initial=1))))

    def draw(self, least: Counts, most: Counts, quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lengths at these quantiles [samples, n] of outputs that have at least least[i] tokens, at most most[i].

        One more than were seen is thought to become longer than anything seen: up to `most`, each factor as likely.
        """
        passed = np.searchsorted(self.ends, least)
        # Where nothing seen became so long, all that matters is that something did.
        reached = np.maximum(self.share[passed], 1e-9)
        longer = np.maximum(self.share[-1], reached / (len(self.ends) - passed + 1))
        share = reached * (1 - quantiles)
        if len(self.ends):
            end = np.maximum(self.end_at.take((share * _SHARES).astype(np.int64)), passed)
            length = self.ends.take(end, mode="clip").astype(np.float64)
        else:
            length = np.zeros(share.shape)
        unseen = np.nonzero(share < longer)
        if len(unseen[0]):
            at = unseen[1]
            begin = np.maximum(least, self.longest)[at]
            length[unseen] = begin * (np.maximum(most[at], begin) / begin) ** (1 - share[unseen] / longer[at])
        return np.clip(length, least, most)
