"""Tokens that a sequence may not have yet."""

from torch import Tensor


def forbid(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """logits[rows[i], tokens[i]] = -inf for all i, in place. rows, tokens [n] int64."""
    return logits.index_put_((rows, tokens), logits.new_full((), float("-inf")))
