# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Penalties at the cost of the context, not of the vocabulary. Suffix: P positions of a program.

The first kernel counts each token of a context in a line of numbers that are all zero between steps; the second takes
the counts out again: of the positions that hold the same token one finds the count, and changes the logit.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, why_not

BLOCK = 512
LINES = 64  # sequences that are counted at once
IN_PROMPT = tl.constexpr(1 << 30)  # a count is smaller


@triton.jit
def _context(row, lengths, slot_table, token_of_slot, table_stride, BLOCK: tl.constexpr):
    """Positions of a program, their tokens, and which of them are there."""
    sequence = tl.program_id(0)
    position_P = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there_P = position_P < tl.load(lengths + sequence)
    at_P = slot_table + tl.load(row + sequence) * table_stride + position_P
    token_P = tl.load(token_of_slot + tl.load(at_P, mask=is_there_P, other=0), mask=is_there_P, other=0)
    return position_P, token_P, is_there_P


@triton.jit(do_not_specialize_on_alignment=["row", "lengths", "prompt_lengths"])
def _count(
    counts, row, lengths, prompt_lengths, slot_table, token_of_slot, vocab, table_stride,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """counts [LINES, vocab]: times in the output, plus IN_PROMPT for tokens of the prompt."""
    begin(DEPENDENT)
    position_P, token_P, is_there_P = _context(row, lengths, slot_table, token_of_slot, table_stride, BLOCK)
    is_output_P = position_P >= tl.load(prompt_lengths + tl.program_id(0))
    counts += tl.program_id(0).to(tl.int64) * vocab
    tl.atomic_add(counts + token_P, 1, mask=is_there_P & is_output_P, sem="relaxed")
    tl.atomic_or(counts + token_P, IN_PROMPT, mask=is_there_P & (is_output_P == 0), sem="relaxed")


@triton.jit(do_not_specialize_on_alignment=["which", "row", "lengths", "repetitions", "presences", "frequencies"])
def _penalize(
    logits, counts, which, row, lengths, repetitions, presences, frequencies, slot_table, token_of_slot,
    vocab, stride, table_stride,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    begin(DEPENDENT)
    sequence = tl.program_id(0)
    _, token_P, is_there_P = _context(row, lengths, slot_table, token_of_slot, table_stride, BLOCK)
    counts += sequence.to(tl.int64) * vocab
    zero_P = tl.zeros([BLOCK], tl.int32)
    count_P = tl.atomic_xchg(counts + token_P, zero_P, mask=is_there_P, sem="relaxed")
    is_first_P = is_there_P & (count_P != 0)
    logit_P = logits + tl.load(which + sequence) * stride + token_P
    value_P = tl.load(logit_P, mask=is_first_P, other=0.0)
    repetition = tl.load(repetitions + sequence)
    value_P = tl.where(value_P > 0, tl.div_rn(value_P, repetition + zero_P.to(tl.float32)), value_P * repetition)
    times_P = (count_P & (IN_PROMPT - 1)).to(tl.float32)
    value_P -= tl.load(frequencies + sequence) * times_P
    value_P -= tl.load(presences + sequence) * (times_P > 0).to(tl.float32)
    tl.store(logit_P, value_P, mask=is_first_P)


@functools.cache
def _counts(device: torch.device, vocab: int) -> Tensor:
    """All zero between kernels, which must follow one another on one stream."""
    return torch.zeros(LINES, vocab, dtype=torch.int32, device=device)


@ops.penalize.implementation("triton", why_not)
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
    vocab, dependent = logits.shape[1], depends(logits.device)
    counts, where = _counts(logits.device, vocab), (slot_table, token_of_slot)
    options = {"BLOCK": BLOCK, "DEPENDENT": dependent, "launch_pdl": dependent}
    for start in range(0, len(which), LINES):
        lines = slice(start, start + LINES)
        grid = (len(which[lines]), cdiv(longest, BLOCK))
        _count[grid](
            counts, row[lines], lengths[lines], prompt_lengths[lines], *where, vocab, slot_table.stride(0), **options
        )
        _penalize[grid](
            logits, counts, which[lines], row[lines], lengths[lines], repetition[lines], presence[lines],
            frequency[lines], *where, vocab, logits.stride(0), slot_table.stride(0), **options,
        )  # fmt: skip
    return logits
