# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Biases of single tokens, a program for some of one sequence's. Suffix: B biases of a program."""

import triton
import triton.language as tl
from torch import Tensor

from lightllm.base import token_words
from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, why_not

BLOCK = 128
WORDS_OF_BIAS = tl.constexpr(token_words.WORDS_OF_BIAS)


@triton.jit(
    do_not_specialize=["deepest"],
    do_not_specialize_on_alignment=["which", "row", "lengths", "starts", "counts"],
)
def _add_biases(
    logits, which, row, lengths, starts, counts, words, slot_table, token_of_slot, deepest, stride, table_stride,
    BLOCK: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    begin(DEPENDENT)
    sequence = tl.program_id(0)
    number_B = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    applies_B = number_B < tl.load(counts + sequence)
    words += tl.load(starts + sequence)
    head_B = words + WORDS_OF_BIAS * number_B
    token_B, bits_B = (tl.load(head_B, mask=applies_B, other=0), tl.load(head_B + 1, mask=applies_B, other=0))
    at_B, depth_B = (tl.load(head_B + 2, mask=applies_B, other=0), tl.load(head_B + 3, mask=applies_B, other=0))
    length = tl.load(lengths + sequence)
    slot_table += tl.load(row + sequence) * table_stride
    applies_B = applies_B & (depth_B <= length)
    for back in range(deepest):
        is_asked_B = applies_B & (back < depth_B)
        wanted_B = tl.load(words + at_B + back, mask=is_asked_B, other=0)
        slot_B = tl.load(slot_table + length - depth_B + back, mask=is_asked_B, other=0)
        known_B = tl.load(token_of_slot + slot_B, mask=is_asked_B, other=0)
        applies_B = applies_B & ((is_asked_B == 0) | (wanted_B == known_B))
    value_B = bits_B.to(tl.int32).to(tl.float32, bitcast=True)
    # A token may have several biases: one of its own, and some for what comes before it.
    tl.atomic_add(logits + tl.load(which + sequence) * stride + token_B, value_B, mask=applies_B, sem="relaxed")


@ops.add_biases.implementation("triton", why_not)
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
    dependent = depends(logits.device)
    _add_biases[(len(which), cdiv(most, BLOCK))](
        logits, which, row, lengths, starts, counts, words, slot_table, token_of_slot, deepest,
        logits.stride(0), slot_table.stride(0),
        BLOCK=BLOCK, DEPENDENT=dependent, launch_pdl=dependent,
    )  # fmt: skip
    return logits
