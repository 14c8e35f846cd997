# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Locally typical sampling without sorting: a program a row finds the distance from the entropy by halving.

Suffix: V tokens that a program looks at at a time.
"""

import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, depends, why_not

CHUNK = 8192
WARPS = 16


@triton.jit
def _tempered(logits, start, vocab, top, temperature, CHUNK: tl.constexpr):
    """(logit - top) / temperature of tokens start ... start + CHUNK - 1; -inf past the end."""
    token_V = start + tl.arange(0, CHUNK)
    logit_V = tl.load(logits + token_V, mask=token_V < vocab, other=float("-inf"))
    return tl.div_rn(logit_V - top, temperature + tl.zeros([CHUNK], tl.float32))


@triton.jit
def _mass_within(logits, vocab, top, temperature, average, bound, CHUNK: tl.constexpr):
    """Of x at most `bound` away from the average: the sum of exp(x), the largest distance; the least of the others."""
    mass, within, beyond = 0.0, float("-inf"), float("inf")
    for start in range(0, vocab, CHUNK):
        x_V = _tempered(logits, start, vocab, top, temperature, CHUNK)
        distance_V = tl.abs(average - x_V)
        is_within_V = distance_V <= bound
        mass += tl.sum(tl.where(is_within_V, tl.exp(x_V), 0.0), axis=0)
        within = tl.maximum(within, tl.max(tl.where(is_within_V, distance_V, float("-inf")), axis=0))
        beyond = tl.minimum(beyond, tl.min(tl.where(is_within_V, float("inf"), distance_V), axis=0))
    return mass, within, beyond


@triton.jit(do_not_specialize_on_alignment=["which", "temperatures", "typical_ps"])
def _keep_typical(logits, which, temperatures, typical_ps, vocab, stride, CHUNK: tl.constexpr, DEPENDENT: tl.constexpr):
    begin(DEPENDENT)
    sequence = tl.program_id(0)
    logits += tl.load(which + sequence) * stride
    temperature = tl.load(temperatures + sequence)
    top = float("-inf")
    for start in range(0, vocab, CHUNK):
        token_V = start + tl.arange(0, CHUNK)
        logit_V = tl.load(logits + token_V, mask=token_V < vocab, other=float("-inf"))
        top = tl.maximum(top, tl.max(logit_V, axis=0))
    total, weighted = 0.0, 0.0
    for start in range(0, vocab, CHUNK):
        x_V = _tempered(logits, start, vocab, top, temperature, CHUNK)
        weight_V = tl.exp(x_V)
        total += tl.sum(weight_V, axis=0)
        weighted += tl.sum(tl.where(weight_V > 0, x_V * weight_V, 0.0), axis=0)
    # With -log p = log(total) - x and H = log(total) - average, |-log p - H| is |average - x|.
    average = weighted / total
    enough = tl.load(typical_ps + sequence) * total
    # The answer is above `low` and not above `high`.
    low, high, middle = -1.0, float("inf"), 1.0
    searching = True
    while searching:
        mass, within, beyond = _mass_within(logits, vocab, top, temperature, average, middle, CHUNK)
        is_enough = mass >= enough
        high = tl.where(is_enough, within, high)
        low = tl.where(is_enough, low, middle)
        # No distance lies between the two if the least that is not within is `high`, or no number lies between them.
        is_left = is_enough | (beyond < high)
        middle = tl.where(high == float("inf"), tl.maximum(2.0 * middle, beyond), low + (high - low) * 0.5)
        searching = is_left & (middle > low) & (middle < high)
    for start in range(0, vocab, CHUNK):
        x_V = _tempered(logits, start, vocab, top, temperature, CHUNK)
        token_V = start + tl.arange(0, CHUNK)
        fails_V = (tl.abs(average - x_V) > high) & (token_V < vocab)
        tl.store(logits + token_V, tl.full([CHUNK], float("-inf"), tl.float32), mask=fails_V)


@ops.keep_typical.implementation("triton", why_not)
def keep_typical(logits: Tensor, which: Tensor, temperature: Tensor, typical_p: Tensor) -> Tensor:
    assert logits.stride(1) == 1, "a row of logits lies in a run"
    dependent = depends(logits.device)
    _keep_typical[(len(which),)](
        logits, which, temperature, typical_p, logits.shape[1], logits.stride(0),
        CHUNK=CHUNK, DEPENDENT=dependent, launch_pdl=dependent, num_warps=WARPS,
    )  # fmt: skip
    return logits
