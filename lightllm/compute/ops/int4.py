"""Products with 4-bit weights that lie in the order in which a matrix unit takes them.

Weights are cut into tiles of ROWS outputs and COLUMNS inputs. A tile is 1,024 words of 32 bits: what a thread of a
group of four warps multiplies in one instruction is one of them, and its eight weights are where a shift and a mask
make pairs of 16-bit floats of them. So unpacking moves nothing between threads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.compute.ops.activation import silu_and_mul
from lightllm.compute.ops.awq import random_matrix, unpacked
from lightllm.compute.ops.op import TOLERANCE, Facts, op

ROWS = 64
COLUMNS = 128
WORDS = (32, 32)  # of a tile
SMALL_GROUPS = (32, 64)  # others are multiples of COLUMNS, or all inputs
MOST_AT_ONCE = 1 << 24  # weights that are put in order in one go, which takes a few numbers of 32 bits each
_TOLERANCE = TOLERANCE | {torch.float32: 1e-4}
# A tile's inputs are [4, 2 words, 2, 4 threads, 2 halves] and its outputs [4 warps, 2, 8 threads]; a word's bits are
# [2 halves, 2 of inputs, 2 of outputs, 4].
_INPUTS, _OUTPUTS = (4, 2, 2, 4, 2), (4, 2, 8)


class Tiled(NamedTuple):
    """A matrix [outputs, inputs] in tiles; what sticks out is 0.

    words [output tiles, input tiles, *WORDS] int32. steps [groups, outputs] int32: a float32 scale whose lowest four
    bits are the zero point. order [inputs] int64: which input comes where; None: each at its own place.
    """

    words: Tensor
    steps: Tensor
    order: Tensor | None


def _cases(facts: Facts):
    for tokens, outputs, inputs, group in [(1, 64, 128, 32), (7, 128, 384, 128), (3, 192, 272, 64), (5, 128, 200, 200)]:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        weight, zeros, scales, _ = random_matrix(outputs, inputs, facts)
        groups = -(-inputs // group)
        for bias in (None, torch.randn(outputs, dtype=facts.dtype, device=facts.device)):
            order = None if bias is None else torch.randperm(inputs, device=facts.device)
            yield x, *tiled(weight, zeros[:groups], scales[:groups], order), group, bias


def tiled(weight: Tensor, zeros: Tensor, scales: Tensor, order: Tensor | None) -> Tiled:
    """AWQ's tensors (see ops.awq) in tiles. order: input order[i] becomes the i-th, and groups are runs of these."""
    inputs, outputs = len(weight), scales.shape[1]
    shape = -(-outputs // ROWS), -(-inputs // COLUMNS), *WORDS
    words = torch.empty(shape, dtype=torch.int32, device=weight.device)
    at_once = max(MOST_AT_ONCE // (shape[1] * COLUMNS * ROWS), 1)
    for first in range(0, shape[0], at_once):
        here = weight[:, first * ROWS // 8 : (first + at_once) * ROWS // 8]
        words[first : first + at_once] = _words(unpacked(here if order is None else here[order]))
    # Rounded to the nearest float that leaves four bits free.
    steps = ((scales.float().contiguous().view(torch.int32) + 8) & -16) | unpacked(zeros).to(torch.int32)
    return Tiled(words, steps, order)


def _words(numbers: Tensor) -> Tensor:
    """numbers [inputs, outputs] of 0 ... 15 -> [output tiles, input tiles, *WORDS]."""
    inputs, outputs = numbers.shape
    whole = F.pad(numbers, (0, -outputs % ROWS, 0, -inputs % COLUMNS))
    tiles = whole.reshape(-1, *_INPUTS, whole.shape[1] // ROWS, *_OUTPUTS)
    # From [tile, 4, word, input, thread, half, tile, warp, output, thread] to words, then what a word has.
    tiles = tiles.permute(6, 0, 1, 7, 9, 4, 2, 5, 3, 8).flatten(2, 6).flatten(3)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=numbers.device)
    words = (tiles.to(torch.int32) << shifts).sum(-1, dtype=torch.int32)
    return words.view(*words.shape[:2], *WORDS)


def numbers_of(words: Tensor) -> Tensor:
    """words [output tiles, input tiles, *WORDS] -> [output tiles * ROWS, input tiles * COLUMNS] of 0 ... 15."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    numbers = ((words.flatten(2)[..., None] >> shifts) & 15).view(*words.shape[:2], 4, 4, 8, 4, 2, 2, 2, 2)
    # [output tile, input tile, 4, warp, thread, thread, word, half, input, output]
    numbers = numbers.permute(0, 3, 9, 4, 1, 2, 6, 8, 5, 7)
    return numbers.flatten(4).flatten(0, 3)


def dequantized(
    words: Tensor, steps: Tensor, order: Tensor | None, group: int, inputs: int, dtype: torch.dtype
) -> Tensor:
    """The matrix [outputs, inputs] of `dtype`: (number - zero point) * scale, where each input is at its own place."""
    group_of = torch.arange(inputs, device=words.device) // group
    scales, zeros = (steps & -16).view(torch.float32), steps & 15
    numbers = numbers_of(words)[: steps.shape[1], :inputs]
    weight = ((numbers - zeros[group_of].T) * scales[group_of].T).to(dtype)
    return weight if order is None else weight[:, order.argsort()]


@op(cases=_cases, tolerance=_TOLERANCE)
def linear_int4(
    x: Tensor, words: Tensor, steps: Tensor, order: Tensor | None, group: int, bias: Tensor | None
) -> Tensor:
    """x W^T + bias, where W is Tiled(words, steps, order) and `group` inputs share a step.

    x [tokens, inputs]; bias [outputs]; returns [tokens, outputs]. group: one of SMALL_GROUPS, a multiple of COLUMNS, or
    at least all inputs.
    """
    return F.linear(x, dequantized(words, steps, order, group, x.shape[1], x.dtype), bias)


@op(cases=_cases, tolerance=_TOLERANCE)
def gated_linear_int4(
    x: Tensor, words: Tensor, steps: Tensor, order: Tensor | None, group: int, bias: Tensor | None
) -> Tensor:
    """silu(gate) * up, where linear_int4 makes gates and then as many others."""
    return silu_and_mul.reference(linear_int4.reference(x, words, steps, order, group, bias))
