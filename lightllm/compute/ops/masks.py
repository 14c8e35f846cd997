"""Which tokens may be sampled at all, as bits."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    device = facts.device
    for rows, vocab, lines, count in [(1, 9, 1, 1), (6, 1031, 4, 3), (5, 5000, 3, 5)]:
        yield (
            torch.randn(rows, vocab, device=device),
            torch.randperm(rows, device=device)[:count],
            torch.randint(-(2**31), 2**31 - 1, (lines, -(-vocab // 32)), dtype=torch.int32, device=device),
            torch.randint(0, lines, (count,), device=device),
        )
    # Words for fewer tokens than there are logits: the others are not allowed.
    yield (
        torch.randn(1, 200, device=device),
        torch.tensor([0], device=device),
        masks_of_ones(2, device),
        torch.tensor([0], device=device),
    )


def masks_of_ones(words: int, device: torch.device) -> Tensor:
    """One line in which every token is allowed."""
    return torch.full((1, words), -1, dtype=torch.int32, device=device)


@op(cases=_cases)
def allow(logits: Tensor, which: Tensor, masks: Tensor, at: Tensor) -> Tensor:
    """logits[which[i], t] = -inf, in place, unless bit t % 32 of masks[at[i], t // 32] is 1; bit 0 is the lowest.

    logits [rows, vocab] float32; masks [lines, words] int32; which, at [k] int64. Tokens that the words do not reach
    are not allowed.
    """
    vocab = logits.shape[1]
    chosen = masks.index_select(0, at)
    bits = (chosen.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32, device=masks.device)) & 1
    is_allowed = bits.flatten(1)[:, :vocab].bool()
    is_allowed = torch.nn.functional.pad(is_allowed, (0, vocab - is_allowed.shape[1]))
    return logits.index_copy_(0, which, logits.index_select(0, which).masked_fill_(~is_allowed, float("-inf")))
