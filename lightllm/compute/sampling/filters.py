"""Which tokens may be drawn: top-k, then top-p among what that leaves, then min-p. Never sorts more than it must.

Each filter keeps the tokens whose logit is not below a threshold, so together they are the largest threshold, and
equal logits are kept or dropped together.
"""

import torch
from torch import Tensor

# Tokens looked at first. Nearly always enough; if some row needs more, more are looked at, with the same result.
WIDTHS = (64, 1024)


def candidates(
    logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, *, widths: tuple[int, ...] = WIDTHS
) -> tuple[Tensor, Tensor]:
    """The tokens that pass all filters, likeliest first.

    logits [rows, vocab] float32, already divided by the temperature; top_k [rows] int64 in 1 ... vocab (vocab: off);
    top_p [rows] (1: off), min_p [rows] (0: off) float32. Returns values [rows, width] float32, -inf for tokens that
    do not pass, and their tokens [rows, width] int64. Waits for the device once for each width it tries but the last.
    """
    vocab = logits.shape[1]
    total = logits.logsumexp(-1)
    width = min(widths[0], vocab)
    values, tokens = logits.topk(width)
    least = threshold(values, total, vocab, top_k, top_p, min_p)
    if width < vocab and not bool((values[:, -1] < least).all()):
        return candidates(logits, top_k, top_p, min_p, widths=(*widths[1:], vocab))
    return values.masked_fill(values < least.unsqueeze(1), float("-inf")), tokens


def threshold(values: Tensor, total: Tensor, vocab: int, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The smallest logit that passes, judged by the largest logits; right if it is above the least of them.

    values [rows, width] float32, descending; total [rows]: logsumexp of all `vocab` logits. Returns [rows] float32.
    """
    lowest = values.new_tensor(float("-inf"))
    width, likeliest = values.shape[1], values[:, 0]
    by_count = values.gather(1, (top_k.clamp(max=width) - 1).unsqueeze(1)).squeeze(1)
    by_count = by_count.where(top_k <= width, lowest)

    # Sums in float64 do not depend on the width, as far as anyone can tell.
    weight = (values.double() - likeliest.double().unsqueeze(1)).exp()
    mass = (weight * (values >= by_count.unsqueeze(1))).cumsum(-1)
    all_mass = mass[:, -1].where(top_k < vocab, (total.double() - likeliest).exp())
    reached = mass >= (top_p * all_mass).unsqueeze(1)
    by_mass = values.gather(1, reached.to(torch.uint8).argmax(-1, keepdim=True)).squeeze(1)
    by_mass = by_mass.where(reached.any(-1) & (top_p < 1), lowest)

    by_probability = likeliest + min_p.log()
    # The mass of k tokens is unknown where only fewer were looked at.
    is_known = (top_k <= width) | (top_k == vocab) | (top_p == 1)
    return torch.maximum(by_count, torch.maximum(by_mass, by_probability)).where(is_known, lowest)
