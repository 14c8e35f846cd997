"""A few tokens of each row, on the host."""

import numpy as np

_NONE = -1


class TokenLists:
    """`tokens` [rows, the most of a row] int64, -1 where there is none."""

    def __init__(self, rows: int, vocab: int):
        self._vocab = vocab
        self.tokens = np.full((rows, 1), _NONE, np.int64)

    def begin(self, rows: np.ndarray, counts: np.ndarray, tokens: np.ndarray) -> None:
        """rows [n] have counts [n] of the tokens, one row's after another's. Tokens that do not exist are left out."""
        widest = counts.max(initial=0)
        if widest > self.tokens.shape[1]:
            self.tokens = np.pad(self.tokens, ((0, 0), (0, widest - self.tokens.shape[1])), constant_values=_NONE)
        self.tokens[rows] = _NONE
        column = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.tokens[np.repeat(rows, counts), column] = np.where(tokens < self._vocab, tokens, _NONE)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All tokens of these rows: the place of each one's row in `rows`, and the token; both [m]."""
        tokens = self.tokens[rows]
        place, column = np.nonzero(tokens >= 0)
        return place, tokens[place, column]
