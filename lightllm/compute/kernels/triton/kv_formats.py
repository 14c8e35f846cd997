# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Numbers of fewer bits, as kernels store them and as they multiply them: whole, scaled afterwards.

PACKED numbers are stored in one; 0 if what is stored has no scale. Suffixes: T tokens of a tile, R rows of a product.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from lightllm.compute.ops.per_channel import SMALLEST_SCALE

LEAST_SCALE = tl.constexpr(SMALLEST_SCALE)  # of a value that is stored


@triton.jit
def numbers(stored, PACKED: tl.constexpr, KIND: tl.constexpr):
    """stored [tokens, n] as numbers of type KIND [tokens, n * PACKED]; without scales, as they are."""
    if PACKED == 2:
        pairs = stored.to(tl.int8, bitcast=True)
        return tl.interleave((pairs << 4) >> 4, pairs >> 4).to(KIND)
    else:  # noqa: RET505 (Triton compiles what comes after a return)
        return stored.to(KIND) if PACKED else stored


@triton.jit
def stored(x, PACKED: tl.constexpr, KIND: tl.constexpr):
    """What `numbers` would give back, or the nearest to it, of x [rows, n] that is divided by its scales already."""
    if PACKED == 2:
        pairs = libdevice.rint(x).to(tl.int8).reshape(x.shape[0], x.shape[1] // 2, 2)
        low, high = tl.split(pairs)
        return ((low & 15) | (high << 4)).to(KIND, bitcast=True)
    else:  # noqa: RET505 (Triton compiles what comes after a return)
        return (libdevice.rint(x) if tl.int8 == KIND else x).to(KIND)


@triton.jit
def scaled_shares(share_RT, scale_T, top):
    """Shares of values by their scales, relative to the largest so far, so that narrow types hold them.

    top: the largest before. Returns the largest now, too, and by what earlier sums are to be multiplied.
    """
    new_top = tl.maximum(top, tl.max(scale_T, axis=0))
    return share_RT * (scale_T / new_top)[None, :], new_top, top / new_top
