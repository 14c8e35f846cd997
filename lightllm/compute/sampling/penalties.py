"""Penalties for tokens that a sequence has already, and tokens that it may not have yet."""

import torch
from torch import Tensor


def penalize(
    logits: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    *,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """l' = l / repetition if l > 0 else l * repetition, for tokens of prompt and output; then
    l'' = l' - frequency * (times in the output) - presence * (whether in the output).

    logits [rows, vocab] float32; tokens [rows, positions] int64, of which the first `lengths` [rows] count, those
    from `prompt_lengths` [rows] on being output; the penalties are [rows] float32. Returns a new tensor like logits.
    """
    position = torch.arange(tokens.shape[1], device=tokens.device)
    known = position < lengths.unsqueeze(1)
    output = known & (position >= prompt_lengths.unsqueeze(1))
    zeros = torch.zeros_like(logits)
    is_known = zeros.scatter_add(1, tokens, known.to(logits.dtype)) > 0
    times = zeros.scatter_add_(1, tokens, output.to(logits.dtype))
    repetition = repetition.unsqueeze(1)
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalized = torch.where(is_known, repeated, logits)
    return penalized - frequency.unsqueeze(1) * times - presence.unsqueeze(1) * (times > 0)


def forbid(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """logits[rows[i], tokens[i]] = -inf for all i, in place. rows, tokens [n] int64."""
    return logits.index_put_((rows, tokens), logits.new_full((), float("-inf")))
