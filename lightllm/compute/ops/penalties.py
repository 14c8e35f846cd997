"""Penalties for tokens that a sequence has already."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    device = facts.device
    for rows, vocab, width, lengths in [(1, 9, 20, [20]), (7, 300, 700, [1, 600, 40]), (5, 50, 64, [30, 64, 64, 1])]:
        count = len(lengths)
        known = torch.tensor(lengths, device=device)
        yield (
            torch.randn(count + 2, vocab, device=device),
            torch.randperm(count + 2, device=device)[:count],
            torch.randperm(rows, device=device)[:count],
            known,
            (known * torch.rand(count, device=device)).long(),
            *(torch.rand(3, count, device=device) + torch.tensor([[0.7], [-0.5], [-0.5]], device=device)),
            max(lengths),
            torch.randperm(rows * width, device=device).view(rows, width).to(torch.int32),
            torch.randint(0, vocab, (rows * width,), dtype=torch.int32, device=device),
        )


@op(cases=_cases)
def penalize(
    logits: Tensor,
    which: Tensor,
    row: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
    longest: int,
    slot_table: Tensor,
    token_of_slot: Tensor,
) -> Tensor:
    """l' = l / repetition if l > 0 else l * repetition, for tokens of prompt and output; then
    l'' = l' - frequency * (times in the output) - presence * (whether in the output). In place; returns logits.

    logits [n, vocab] float32, of which lines `which` [k] int64, each once, are penalized. Their tokens are those at
    positions 0 ... lengths - 1 of rows `row`, from prompt_lengths on output: token_of_slot[slot_table[row, position]];
    row, lengths, prompt_lengths [k] int64; the penalties [k] float32; longest: no length is larger.
    """
    tokens = context(row, longest, slot_table, token_of_slot)
    return logits.index_copy_(
        0,
        which,
        penalized(
            logits.index_select(0, which),
            tokens,
            lengths,
            prompt_lengths,
            repetition=repetition,
            presence=presence,
            frequency=frequency,
        ),
    )


def context(row: Tensor, longest: int, slot_table: Tensor, token_of_slot: Tensor) -> Tensor:
    """Tokens of these rows [n] at positions 0 ... longest - 1, [n, longest] int64; undefined past a row's length."""
    slots = slot_table[:, :longest].index_select(0, row)
    return token_of_slot.index_select(0, slots.flatten()).view_as(slots).long()


def penalized(
    logits: Tensor,
    tokens: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    *,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """As `penalize`, of tokens [rows, positions] int64. Returns a new tensor like logits [rows, vocab]."""
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
