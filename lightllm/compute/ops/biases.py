"""Numbers added to the logits of single tokens, always or after certain others."""

import torch
from torch import Tensor

from lightllm.base.token_words import WORDS_OF_BIAS, Bias, pack
from lightllm.compute.ops.op import Facts, op


def _cases(facts: Facts):
    device = facts.device
    for rows, vocab, width, counts in [(1, 50, 20, [3]), (6, 300, 40, [0, 70, 5, 300]), (3, 1031, 8, [9, 1])]:
        count = len(counts)
        known = torch.randint(0, vocab, (rows * width,), dtype=torch.int32)
        table = torch.randperm(rows * width).view(rows, width).to(torch.int32)
        row, lengths = torch.randperm(rows)[:count], torch.randint(1, width + 1, (count,))
        contexts = [known[table[r].long()][:length].tolist() for r, length in zip(row, lengths, strict=True)]
        runs = [_random_biases(number, vocab, context) for number, context in zip(counts, contexts, strict=True)]
        words = [torch.frombuffer(bytearray(pack(biases=run).words + b"\0" * 4), dtype=torch.int32) for run in runs]
        starts = torch.tensor([0] + [len(run) for run in words]).cumsum(0)[:-1]
        yield (
            torch.randn(count + 2, vocab, device=device),
            *(x.to(device) for x in (torch.randperm(count + 2)[:count], row, lengths, starts, torch.tensor(counts))),
            max(counts),
            3,
            torch.cat(words).long().to(device),
            table.to(device),
            known.to(device),
        )


def _random_biases(count: int, vocab: int, context: list[int]) -> list[Bias]:
    """Of different tokens; a third after nothing, a third after the end of the context, a third after anything."""
    tokens = torch.randperm(vocab)[:count].tolist()
    values = torch.randn(count).tolist()
    preceding = [[], context[-min(3, len(context)) :], torch.randint(0, vocab, (2,)).tolist()]
    biases = [([*preceding[i % 3], token], values[i]) for i, token in enumerate(tokens)]
    return [(word, float("-inf") if i % 7 == 0 else value) for i, (word, value) in enumerate(biases)]


@op(cases=_cases)
def add_biases(
    logits: Tensor,
    which: Tensor,
    row: Tensor,
    lengths: Tensor,
    starts: Tensor,
    counts: Tensor,
    most: int,
    deepest: int,
    words: Tensor,
    slot_table: Tensor,
    token_of_slot: Tensor,
) -> Tensor:
    """logits[which[i], token] += value, in place, for each of the biases of sequence i that applies.

    The counts[i] biases of sequence i lie in `words` [words] int64 from starts[i] on, as base/token_words.py says; one
    applies if the last of the lengths[i] tokens of row row[i] are those that it wants before it, at positions 0 ...
    lengths[i] - 1: token_of_slot[slot_table[row, position]]. logits [rows, vocab] float32; which, row, lengths, starts,
    counts [k] int64; most: no count is larger; deepest: no bias wants more tokens before it.
    """
    number = torch.arange(most, device=logits.device)
    is_there = number < counts.unsqueeze(1)
    head = torch.where(is_there, starts.unsqueeze(1) + WORDS_OF_BIAS * number, 0)
    token, bits, at, depth = (words[head + i] for i in range(WORDS_OF_BIAS))
    applies = is_there & (depth <= lengths.unsqueeze(1))
    for back in range(deepest):
        asked = applies & (back < depth)
        wanted = words[torch.where(asked, starts.unsqueeze(1) + at + back, 0)]
        position = torch.where(asked, lengths.unsqueeze(1) - depth + back, 0)
        known = token_of_slot[slot_table[row.unsqueeze(1), position].long()]
        applies &= ~asked | (wanted == known)
    value = torch.where(applies, bits.to(torch.int32).view(torch.float32), 0.0)
    where = which.unsqueeze(1).expand_as(token), torch.where(applies, token, 0)
    return logits.index_put_(where, value, accumulate=True)
