"""Masks of tokens that grammars allow, in shared memory: the process `grammar` writes, the worker that samples reads.

The worker orders a mask for a line under a serial number. The answer to it lies in `answers`: the number itself once
the mask is there, its negative if there is none. An answer to an older order is of no interest to anybody.
"""

import numpy as np

from lightllm.base.shared_memory import SharedMemory

WORD_BITS = 32
_ALIGN = 4096

ORDER = np.dtype(
    [
        ("line", np.int32),  # where the mask goes
        ("index", np.int32),  # of the request's record
        ("generation", np.uint32),
        ("position", np.int32),  # output tokens before the one that the mask is for
        ("token", np.int32),  # the last of these; UNKNOWN: the request table has it, or will in a moment
        ("serial", np.int64),
    ],
    align=True,
)
UNKNOWN = -1


class MaskMemory:
    """answers [lines] int64; masks [lines, words] int32: token t is allowed if bit t % 32 of word t // 32 is set."""

    def __init__(self, memory: SharedMemory, *, lines: int, vocab: int):
        words, start = words_of(vocab), _round_up(lines * 8)
        self.answers = np.frombuffer(memory.view[: lines * 8], dtype=np.int64)
        masks = memory.view[start : start + lines * words * 4]
        self.masks = np.frombuffer(masks, dtype=np.int32).reshape(lines, words)

    @staticmethod
    def create(*, lines: int, vocab: int) -> SharedMemory:
        return SharedMemory.create("masks", _round_up(lines * 8) + lines * words_of(vocab) * 4)


def words_of(vocab: int) -> int:
    """Words of a mask."""
    return -(-vocab // WORD_BITS)


def _round_up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
