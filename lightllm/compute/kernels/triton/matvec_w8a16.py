# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of 8-bit weights with few tokens of 16 bits, on Hopper: weights become 16-bit floats in the registers.

As matvec_hopper.py, the copy engine fetches tiles of the matrix, the first before the program waits for its tokens. A
thread reads the two neighbouring weights of each of its rows that the matrix unit takes from a register, and makes an
exact pair of floats of them: a whole number is the difference of two floats that share its bits, an E4M3 number is
shifted to where a wider float has its fields, and multiplied by the power of two between their exponents. What a row
has summed is scaled at the end.

Suffixes: O rows of the matrix, T tokens, I inputs, P pairs of inputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents

from lightllm.compute.kernels.triton.descriptors import OF_16_BITS, tiles_of, why_not_copied
from lightllm.compute.kernels.triton.launch import arrivals, begin, cdiv, depends, is_hopper, padded
from lightllm.compute.kernels.triton.matvec_hopper import (
    MANY_ROWS,
    MOST_SPLITS,
    Shape,
    _ask,
    _end,
    _fetch,
    _fetch_tokens,
    _scale_of_rows,
    room_for_parts,
)

MOST_TOKENS = 256
TOKENS_AT_ONCE = 128
AT_ONCE = 264  # programs of four stages that run on a card
WARPS = 4
ROWS = 64
_OPERANDS = gl.constexpr("=&r,=&r,r,r")
PIECE = gl.constexpr(64)  # inputs that are made floats of at once

# Two neighbouring weights of each of two rows -> a pair of floats for each row.
_WHOLE_TO_BF16 = gl.constexpr("""{
.reg .b32 a, b, n, z;
prmt.b32 a, $2, 0, 0x4140;
prmt.b32 b, $3, 0, 0x4140;
lop3.b32 n, a, 0x007f007f, 0x43004300, 0xEA;
lop3.b32 z, a, 0x00800080, 0x43004300, 0xEA;
sub.rn.bf16x2 $0, n, z;
lop3.b32 n, b, 0x007f007f, 0x43004300, 0xEA;
lop3.b32 z, b, 0x00800080, 0x43004300, 0xEA;
sub.rn.bf16x2 $1, n, z;
}""")
_WHOLE_TO_F16 = gl.constexpr("""{
.reg .b32 a, b, c;
mov.b32 c, 0x64806480;
xor.b32 a, $2, 0x8080;
xor.b32 b, $3, 0x8080;
prmt.b32 a, a, 0x64646464, 0x4140;
prmt.b32 b, b, 0x64646464, 0x4140;
sub.rn.f16x2 $0, a, c;
sub.rn.f16x2 $1, b, c;
}""")


def _widening(shift: int, fields: str, power: str, kind: str) -> gl.constexpr:
    """E4M3 to a wider float. fields: where exponent and fraction lie when shifted, power: what to multiply them by."""
    lines = ["{", ".reg .b32 a, s, t;"]
    for to, raw in (("$0", "$2"), ("$1", "$3")):
        lines += [f"prmt.b32 a, {raw}, 0, 0x4140;", f"shl.b32 s, a, {shift};", f"and.b32 s, s, {fields};"]
        lines += ["shl.b32 t, a, 8;", f"lop3.b32 t, t, 0x80008000, {power}, 0xEA;", f"mul.rn.{kind}x2 {to}, s, t;"]
    return gl.constexpr("\n".join([*lines, "}"]))


_E4M3_TO_BF16 = _widening(4, "0x07f007f0", "0x7B807B80", "bf16")
_E4M3_TO_F16 = _widening(7, "0x3f803f80", "0x5C005C00", "f16")


@gluon.jit
def _pairs(raw_OP, E4M3: gl.constexpr, KIND: gl.constexpr):
    """Two floats of each pair of bytes, [.., P] int32. A thread's neighbouring numbers are those of its two rows."""
    if gl.bfloat16 == KIND:
        CODE: gl.constexpr = _E4M3_TO_BF16 if E4M3 else _WHOLE_TO_BF16
        both = gl.inline_asm_elementwise(CODE, _OPERANDS, [raw_OP], dtype=(gl.bfloat16,) * 2, is_pure=True, pack=2)
    else:
        CODE: gl.constexpr = _E4M3_TO_F16 if E4M3 else _WHOLE_TO_F16
        both = gl.inline_asm_elementwise(CODE, _OPERANDS, [raw_OP], dtype=(gl.float16,) * 2, is_pure=True, pack=2)
    return gl.join(both[0], both[1])


@gluon.jit
def _floats(weights, piece: gl.constexpr, E4M3: gl.constexpr, KIND: gl.constexpr, SUMS: gl.constexpr):
    """PIECE inputs of a tile [rows, pairs] int16 as the matrix unit's left operand."""
    THREADS: gl.constexpr = gl.DistributedLinearLayout(
        [[8, 0], [0, 4], [0, 8], [0, 16]], [[0, 1], [0, 2], [1, 0], [2, 0], [4, 0]], [[16, 0], [32, 0]], [], [64, 32]
    )
    raw_OP = weights.slice(piece * 32, 32, 1).load(THREADS)
    # [warp, which of a thread's rows, row, pair, which of the pair]: the last of both are exchanged in what is made.
    pairs = _pairs(raw_OP.to(gl.uint16, bitcast=True).to(gl.int32).reshape([4, 2, 8, 32]), E4M3, KIND)
    weight_OI = pairs.permute((0, 4, 2, 3, 1)).reshape([64, 64])
    return gl.convert_layout(weight_OI, gl.DotOperandLayout(0, SUMS, 2), assert_trivial=True)


@gluon.jit
def _sum_tiles(
    x, weight, rows, first, tiles, weights, xs, ready,
    TOKENS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr, BYTES: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """The products of both halves' rows with all tokens, over the tiles that `_ask` began with."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, TOKENS, 16])
    PAIRS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, INPUTS // 2], gl.int16)
    E4M3: gl.constexpr = weight.dtype == gl.float8e4nv
    sum_OT = gl.zeros([64, TOKENS], gl.float32, SUMS)
    other_OT = gl.zeros([64, TOKENS], gl.float32, SUMS)
    for number in range(tiles):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        here = weights.index(stage * HALVES)._reinterpret(gl.int16, [64, INPUTS // 2], PAIRS)
        other = weights.index(stage * HALVES + HALVES - 1)._reinterpret(gl.int16, [64, INPUTS // 2], PAIRS)
        for piece in gl.static_range(INPUTS // PIECE):
            tokens_IT = xs.index(stage).slice(piece * PIECE, PIECE, 1).permute((1, 0))
            weight_OI = _floats(here, piece, E4M3, x.dtype, SUMS)
            sum_OT = warpgroup_mma(weight_OI, tokens_IT, sum_OT, is_async=True)
            if HALVES == 2:
                other_OI = _floats(other, piece, E4M3, x.dtype, SUMS)
                other_OT = warpgroup_mma(other_OI, tokens_IT, other_OT, is_async=True)
        if HALVES == 2:
            sum_OT, other_OT = warpgroup_mma_wait(0, deps=(sum_OT, other_OT))
        else:
            sum_OT = warpgroup_mma_wait(0, deps=(sum_OT,))
        # All warps have read the stage before it is filled again.
        gl.thread_barrier()
        is_tile = number + STAGES < tiles
        tile = first + number + STAGES
        _fetch(weight, weights, ready, stage, rows, tile, is_tile, BYTES, HALVES)
        _fetch_tokens(x, x, xs, xs, ready, stage, tile, is_tile, 0)
    return sum_OT, other_OT


@gluon.jit(do_not_specialize=["tokens"])
def _stream(
    x, weight, bias, scale, y, parts, counters, tokens, outputs, inputs,
    TOKENS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr, SPLITS: gl.constexpr,
    BIASED: gl.constexpr, GATED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """x, weight: descriptors of [tokens, inputs] and [outputs, inputs]."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    weights = gl.allocate_shared_memory(weight.dtype, [STAGES * HALVES, 64, INPUTS], weight.layout)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, TOKENS, INPUTS], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())

    block, split = gl.program_id(0), gl.program_id(1)
    all_tiles = gl.cdiv(inputs, INPUTS)
    first = split * all_tiles // SPLITS
    tiles = (split + 1) * all_tiles // SPLITS - first
    row = block * 64 if GATED else block * (64 * HALVES)
    rows = (row, outputs // 2 + row if GATED else row + 64)
    # Before anything waits, as memory is busy with weights afterwards.
    scale_O = _scale_of_rows(scale, rows[0], outputs, 64, MEMORY)
    other_scale_O = _scale_of_rows(scale, rows[1], outputs, 64, MEMORY)
    BYTES: gl.constexpr = HALVES * weight.block_type.nbytes + x.block_type.nbytes
    _ask(x, x, weight, rows, first, tiles, weights, xs, xs, ready, STAGES, HALVES, 0, BYTES)
    sum_OT, other_OT = _sum_tiles(
        x, weight, rows, first, tiles, weights, xs, ready, TOKENS, INPUTS, STAGES, HALVES, BYTES, num_warps
    )
    sum_OT = gl.convert_layout(sum_OT, MEMORY) * scale_O[:, None]
    other_OT = gl.convert_layout(other_OT, MEMORY) * other_scale_O[:, None]
    sums, more = (sum_OT, other_OT), (rows, bias, (), (y, y), parts, counters, tokens, outputs)
    _end(sums, *more, 64, TOKENS, HALVES, SPLITS, BIASED, GATED, False, None, 0.0, False, MEMORY)


def shape_for(tokens: int, outputs: int, inputs: int, *, gated: bool) -> Shape:
    """Parameters for these sizes; `tokens` is a power of two. Source: docs/performance-log.md."""
    if gated or outputs >= MANY_ROWS:
        return Shape(inputs=128, stages={16: 4, 32: 4, 64: 3}.get(tokens, 2), halves=2)
    # Enough programs to ask for as much as the memory can deliver, without cutting rows into more parts than that.
    fewest = 256 if tokens <= 32 else 192
    stage = 256 if tokens <= 64 else 128
    blocks, tiles, splits = cdiv(outputs, ROWS), cdiv(inputs, stage), 1
    while blocks * splits < fewest and tiles // (2 * splits) >= 4 and splits < MOST_SPLITS:
        splits *= 2
    if blocks * splits > AT_ONCE or tokens > 32:
        # Two stages, so that more programs run at once, or as tokens fill the memory.
        return Shape(inputs=stage, stages=2, splits=splits)
    return Shape(256, 4, splits) if tokens <= 16 else Shape(128, 6, splits)


def multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, shape: Shape, *, gated: bool = False
) -> Tensor:
    """x [tokens, inputs] of 16 bits and weight [outputs, inputs] of 8 bits with the scale of each output -> as
    ops.linear_per_channel, or if gated ops.gated_linear_per_channel, that rounds nothing. shape: for at most
    TOKENS_AT_ONCE tokens; more are multiplied so many at a time."""
    assert shape.halves == 2 or not gated, "a gate and its other row are of one program"
    y = torch.empty(len(x), len(weight) // 2 if gated else len(weight), dtype=x.dtype, device=x.device)
    for some, products in zip(x.split(TOKENS_AT_ONCE), y.split(TOKENS_AT_ONCE), strict=True):
        _multiply(some, weight, scale, bias, shape, products, gated=gated)
    return y


def _multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, shape: Shape, y: Tensor, *, gated: bool
) -> None:
    (tokens, inputs), outputs = x.shape, len(weight)
    blocks = cdiv(outputs // 2, ROWS) if gated else cdiv(outputs, ROWS * shape.halves)
    _stream[(blocks, shape.splits)](
        tiles_of(x, padded(tokens), shape.inputs), tiles_of(weight, ROWS, shape.inputs), bias, scale, y,
        room_for_parts(y, shape.splits, outputs, blocks), arrivals(x.device), tokens, outputs, inputs,
        TOKENS=padded(tokens), INPUTS=shape.inputs, STAGES=shape.stages, HALVES=shape.halves, SPLITS=shape.splits,
        BIASED=bias is not None, GATED=gated, num_warps=WARPS, launch_pdl=True,
    )  # fmt: skip


def why_not(x: Tensor, weight: Tensor) -> str | None:
    """The reason `multiply` cannot take these, if there is one."""
    if x.dtype not in OF_16_BITS:
        return f"tokens are of 16 bits, not {x.dtype}"
    if not 0 < len(x) <= MOST_TOKENS:
        return f"takes 1 to {MOST_TOKENS} tokens, not {len(x)}"
    if not is_hopper(x.device):
        return "needs the matrix unit of compute capability 9"
    return why_not_copied(x, weight)


@triton.jit
def _dequantize(
    weight, scale, y, outputs, inputs, weight_stride,
    ROWS: tl.constexpr, INPUTS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """A tile of the matrix."""
    row_O = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    input_I = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    mask_OI = (row_O < outputs)[:, None] & (input_I < inputs)[None, :]
    at_O = row_O.to(tl.int64)[:, None]
    weight_OI = tl.load(weight + at_O * weight_stride + input_I[None, :], mask=mask_OI, other=0.0)
    y_OI = weight_OI.to(tl.float32) * tl.load(scale + row_O, mask=row_O < outputs, other=0.0)[:, None]
    # What reads the matrix before it is written again was launched before.
    begin(DEPENDENT)
    tl.store(y + at_O * inputs + input_I[None, :], y_OI.to(y.dtype.element_ty), mask=mask_OI)


def dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """ops.per_channel.dequantized of a matrix in one pass."""
    (outputs, inputs), dependent = weight.shape, depends(weight.device)
    y = torch.empty(outputs, inputs, dtype=dtype, device=weight.device)
    rows, columns = 16, 512
    if y.numel():
        _dequantize[(cdiv(outputs, rows), cdiv(inputs, columns))](
            weight, scale, y, outputs, inputs, weight.stride(0),
            ROWS=rows, INPUTS=columns, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4,
        )  # fmt: skip
    return y
