"""Locally typical sampling: only tokens about as surprising as the distribution is on average.

Source: arXiv:2202.00666.
"""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    device = facts.device
    for rows, vocab, count in [(1, 50, 1), (9, 5000, 6), (4, 1031, 4)]:
        # Whole numbers, so that no sum of probabilities is so near to what is wanted that rounding decides.
        logits = torch.randint(-9, 9, (rows, vocab), device=device).float()
        logits[0, ::3] = float("-inf")
        yield (
            logits,
            torch.randperm(rows, device=device)[:count],
            torch.tensor([0.6, 1.0, 1.5], device=device)[torch.arange(count, device=device) % 3],
            torch.tensor([0.9, 0.2, 0.999, 0.5], device=device)[torch.arange(count, device=device) % 4],
        )


@op(cases=_cases)
def keep_typical(logits: Tensor, which: Tensor, temperature: Tensor, typical_p: Tensor) -> Tensor:
    """logits[which[i], t] = -inf, in place, for tokens t that are not among the fewest that together have typical_p[i]
    of the probability and are closest to the entropy H: by |-log p(t) - H|, p = softmax(logits / temperature).

    Equals pass or fail together. logits [rows, vocab] float32; which [k] int64; temperature above 0, typical_p
    [k] float32.
    """
    chosen = logits.index_select(0, which)
    logprobs = (chosen / temperature.unsqueeze(1)).log_softmax(-1)
    p = logprobs.exp()
    entropy = -(logprobs * p).nansum(-1, keepdim=True)
    distance = (-logprobs - entropy).abs()
    ordered, order = distance.sort(dim=-1)
    mass = p.double().gather(1, order).cumsum(-1)
    last = (mass < typical_p.unsqueeze(1)).sum(-1, keepdim=True).clamp(max=mass.shape[1] - 1)
    fails = distance > ordered.gather(1, last)
    return logits.index_copy_(0, which, chosen.masked_fill_(fails, float("-inf")))
