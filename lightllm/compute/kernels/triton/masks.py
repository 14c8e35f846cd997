# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Logits of tokens that a mask of bits forbids. Suffix: V tokens of a program."""

import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, why_not

BLOCK = 4096
BITS = tl.constexpr(32)


@triton.jit(do_not_specialize_on_alignment=["which", "at"])
def _allow(logits, which, masks, at, vocab, words, stride, mask_stride, BLOCK: tl.constexpr, DEPENDENT: tl.constexpr):
    begin(DEPENDENT)
    row, line = tl.load(which + tl.program_id(0)), tl.load(at + tl.program_id(0))
    token_V = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word_V = tl.load(masks + line * mask_stride + token_V // BITS, mask=token_V // BITS < words, other=0)
    is_allowed_V = (word_V >> (token_V % BITS)) & 1
    minus_infinity_V = tl.full([BLOCK], float("-inf"), tl.float32)
    tl.store(logits + row * stride + token_V, minus_infinity_V, mask=(is_allowed_V == 0) & (token_V < vocab))


@ops.allow.implementation("triton", why_not)
def allow(logits: Tensor, which: Tensor, masks: Tensor, at: Tensor) -> Tensor:
    assert logits.stride(1) == 1, "a row of logits lies in a run"
    assert masks.stride(1) == 1, "so do the words of a mask"
    vocab, dependent = logits.shape[1], depends(logits.device)
    _allow[(len(which), cdiv(vocab, BLOCK))](
        logits, which, masks, at, vocab, masks.shape[1], logits.stride(0), masks.stride(0),
        BLOCK=BLOCK, DEPENDENT=dependent, launch_pdl=dependent, num_warps=8,
    )  # fmt: skip
    return logits
