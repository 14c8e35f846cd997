"""What grammars allow the sequences of a step to sample."""

from dataclasses import dataclass

import numpy as np

from lightllm.base.masks import WORD_BITS


@dataclass(frozen=True, slots=True)
class Allowed:
    """The sequences `which` [k] may sample only what masks [k, words] int32 allow, see base.masks; others anything."""

    which: np.ndarray
    masks: np.ndarray

    def masks_without(self, which: np.ndarray, place: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Copies of the masks `which` [n], in which tokens[i] is not allowed at place[i] of them."""
        masks = self.masks[which]
        bits = np.left_shift(np.uint32(1), (tokens % WORD_BITS).astype(np.uint32)).view(np.int32)
        np.bitwise_and.at(masks, (place, tokens // WORD_BITS), ~bits)
        return masks
