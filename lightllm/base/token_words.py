"""What a request wants of single tokens, as 32-bit words that travel from its client to the workers.

Four runs, each of which may be empty:
  biases   four words each: a token, the bits of the float32 that is added to its logit, where in this run the tokens
           lie that must come right before it, and how many these are; after the last bias come the tokens themselves
  ends     eos tokens, which exponential_decay_length_penalty makes likelier
  mask     a bit for each token of the vocabulary, the lowest of a word first: 1 where it may be sampled
  first    likewise, for the first output token only
"""

from collections.abc import Iterable, Sequence

import numpy as np

from lightllm.base.request_table import NO_TOKEN_WORDS, TokenWords

MOST_WORDS = 1 << 16  # of a request; enough for two masks of a million tokens
MOST_BIAS_WORDS = 1 << 13  # of these
WORDS_OF_BIAS = 4
Bias = tuple[Sequence[int], float]  # tokens, and what is added to the logit of the last one if the others precede it


def pack(
    *,
    biases: Sequence[Bias] = (),
    ends: Sequence[int] = (),
    mask: np.ndarray | None = None,
    first_mask: np.ndarray | None = None,
) -> TokenWords:
    """mask, first_mask: as `mask_of` gives them."""
    runs = [_bias_words(biases), np.array(ends, np.int32)]
    runs += [np.empty(0, np.int32) if one is None else one for one in (mask, first_mask)]
    words = np.concatenate(runs)
    if not len(words):
        return NO_TOKEN_WORDS
    lengths = [len(run) for run in runs]
    return TokenWords(words.tobytes(), len(biases), *lengths)


def mask_of(tokens: Iterable[int], vocabulary: int) -> np.ndarray:
    """The words [vocabulary / 32, rounded up] int32 of a mask of these tokens."""
    bits = np.zeros(-(-vocabulary // 32) * 32, np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def _bias_words(biases: Sequence[Bias]) -> np.ndarray:
    heads, before = np.empty((len(biases), WORDS_OF_BIAS), np.int32), []
    at = heads.size
    for head, (tokens, value) in zip(heads, biases, strict=True):
        head[:] = tokens[-1], np.float32(value).view(np.int32), at, len(tokens) - 1
        before += tokens[:-1]
        at += len(tokens) - 1
    return np.concatenate([heads.reshape(-1), np.array(before, np.int32)])
