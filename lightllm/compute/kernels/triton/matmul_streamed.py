# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of 65 to 128 tokens on Hopper: weights stream through a multiprocessor once, past all tokens.

Such products keep the memory busy, and the matrix units half the time. As in matmul_hopper.py one warp copies tiles
while two groups of four warps multiply ROWS tokens each. As in matvec_hopper.py the first weights are asked for before
the program waits for the kernel that makes its tokens, and every multiprocessor has as many weights to read as the
others. So the outputs of a program need not be a power of two: they are cut into pieces that are, and the copy engine
and the matrix unit take piece by piece.

Suffixes: P parts of a sum of squares, T tokens, O outputs.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.descriptors import OF_16_BITS, tiles_of, why_not_copied
from lightllm.compute.kernels.triton.launch import card, next_power_of_2
from lightllm.compute.kernels.triton.matmul_hopper import (
    FEW_REGISTERS,
    INPUTS,
    REGISTERS,
    ROWS,
    _halves,
)

TOKENS = gl.constexpr(2 * ROWS.value)
STAGES, STAGES_OF_PARTS = gl.constexpr(5), gl.constexpr(7)  # with 224 and 128 rows of the matrix what fits
PIECES = (64, 32, 16)  # outputs of a program, each of a gate and what it gates
A, B, C = (gl.constexpr(2 * piece) for piece in PIECES)  # rows of the matrix
OUTPUTS = gl.constexpr(sum(PIECES))
PART_OUTPUTS = gl.constexpr(128)  # of a program that shares its inputs with others
FEWEST_IN_PARTS, LEAST_INPUTS = 81, 8192  # with fewer tokens, or less to read, the library was faster
LEAST_SHARE = 0.9  # of all multiprocessors, that must have a program


@gluon.jit
def _scales(
    squares, parts, width, eps, token,
    PARTS: gl.constexpr, TOKENS: gl.constexpr, HERE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """One over the root mean square of HERE tokens from `token` on. squares: [parts, TOKENS]."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 4], [8, 4], [num_warps, 1], [1, 0])
    part_P = gl.arange(0, PARTS, gl.SliceLayout(1, LAYOUT))
    token_T = token + gl.arange(0, HERE, gl.SliceLayout(0, LAYOUT))
    square_PT = gl.load(squares + part_P[:, None] * TOKENS + token_T[None, :], (part_P < parts)[:, None], other=0.0)
    return gl.rsqrt(gl.sum(square_PT, axis=0) / width + eps)


@gluon.jit
def _ask_piece(weight, row, apart, column, is_ready, buffer):
    HERE: gl.constexpr = weight.block_type.shape[0]
    for half in gl.static_range(2):
        to = buffer.slice(half * HERE, HERE)
        tma.async_copy_global_to_shared(weight, [row + half * apart, column], is_ready, to)


@gluon.jit
def _ask_weights(weights, step, work, buffers, barriers, MATRIX: gl.constexpr):
    """Asks for a step's MATRIX rows, half of them `apart` behind the others, and announces all bytes of its stage."""
    row, apart, first, _ = work
    _, pieces = buffers
    ready, _ = barriers
    stage = step % pieces[0].shape[0]
    mbarrier.expect(ready.index(stage), 2 * (TOKENS + MATRIX) * INPUTS)
    for piece in gl.static_range(len(weights)):
        _ask_piece(weights[piece], row, apart, (first + step) * INPUTS, ready.index(stage), pieces[piece].index(stage))
        row += weights[piece].block_type.shape[0]


@gluon.jit
def _ask_tokens(x, step, work, buffers, barriers):
    _, _, first, _ = work
    xs, pieces = buffers
    ready, _ = barriers
    stage = step % pieces[0].shape[0]
    for group in gl.static_range(2):
        tma.async_copy_global_to_shared(
            x, [group * ROWS, (first + step) * INPUTS], ready.index(stage), xs.index(stage * 2 + group)
        )


@gluon.jit
def _copy(x, weights, work, buffers, barriers, MATRIX: gl.constexpr):
    """What the warp that copies does."""
    _, _, _, steps = work
    _, free = barriers
    STAGES: gl.constexpr = buffers[1][0].shape[0]
    early = gl.minimum(steps, STAGES)
    for step in range(early):
        _ask_weights(weights, step, work, buffers, barriers, MATRIX)
    gdc_wait()
    for step in range(early):
        _ask_tokens(x, step, work, buffers, barriers)
    for step in range(early, steps):
        mbarrier.wait(free.index(step % STAGES), step // STAGES & 1 ^ 1)
        _ask_weights(weights, step, work, buffers, barriers, MATRIX)
        _ask_tokens(x, step, work, buffers, barriers)


@gluon.jit
def _barriers(STAGES: gl.constexpr):
    """Those that say that a stage is ready, and that it is free."""
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        # Both groups of warps have to be done with a stage.
        mbarrier.init(free.index(stage), count=2)
    return ready, free


@gluon.jit
def _gate_piece(sum_TO, scale_T, y, token, output, tokens, width):
    """Scales, gates and writes a piece of one group's tokens: the sums of its gates, then of what they gate."""
    sum_TO *= gl.convert_layout(scale_T, gl.SliceLayout(1, sum_TO.type.layout))[:, None]
    gate_TO, up_TO = _halves(sum_TO)
    y_TO = gate_TO / (1.0 + gl.exp(-gate_TO)) * up_TO
    token_T = token + gl.arange(0, ROWS, gl.SliceLayout(1, y_TO.type.layout))
    output_O = output + gl.arange(0, y_TO.shape[1], gl.SliceLayout(0, y_TO.type.layout))
    to_TO = y + token_T[:, None] * width + output_O[None, :]
    gl.store(to_TO, y_TO.to(y.dtype.element_ty), mask=(token_T < tokens)[:, None])


@gluon.jit
def _gate(WHICH: gl.constexpr, y, tokens, normed, inputs, work, buffers, barriers, PARTS: gl.constexpr):
    """What one group of warps does: ROWS tokens of this program's outputs."""
    squares, square_parts, eps = normed
    row, width, _, steps = work
    xs, pieces = buffers
    ready, free = barriers
    A_SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, A, 16])
    B_SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, B, 16])
    C_SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, C, 16])
    gdc_wait()
    scale_T = _scales(squares, square_parts, inputs, eps, WHICH * ROWS, PARTS, TOKENS, ROWS, 4)
    a_TO = gl.zeros([ROWS, A], gl.float32, A_SUMS)
    b_TO = gl.zeros([ROWS, B], gl.float32, B_SUMS)
    c_TO = gl.zeros([ROWS, C], gl.float32, C_SUMS)
    for step in range(steps):
        stage = step % STAGES
        mbarrier.wait(ready.index(stage), step // STAGES & 1)
        x = xs.index(stage * 2 + WHICH)
        a_TO = warpgroup_mma(x, pieces[0].index(stage).permute((1, 0)), a_TO, is_async=True)
        b_TO = warpgroup_mma(x, pieces[1].index(stage).permute((1, 0)), b_TO, is_async=True)
        c_TO = warpgroup_mma(x, pieces[2].index(stage).permute((1, 0)), c_TO, is_async=True)
        # This step's products stay under way; the stage of those before may be filled again.
        a_TO, b_TO, c_TO = warpgroup_mma_wait(3, deps=(a_TO, b_TO, c_TO))
        mbarrier.arrive(free.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
    a_TO, b_TO, c_TO = warpgroup_mma_wait(0, deps=(a_TO, b_TO, c_TO))
    _gate_piece(a_TO, scale_T, y, WHICH * ROWS, row, tokens, width)
    _gate_piece(b_TO, scale_T, y, WHICH * ROWS, row + A // 2, tokens, width)
    _gate_piece(c_TO, scale_T, y, WHICH * ROWS, row + (A + B) // 2, tokens, width)


@gluon.jit(do_not_specialize=["tokens", "square_parts"])
def _multiply_gated(
    x, a_weight, b_weight, c_weight, squares, square_parts, eps, y, tokens, width, inputs, PARTS: gl.constexpr
):
    """x: descriptor of [tokens, inputs]; weights: of [2 * width, inputs] in tiles of each piece's rows."""
    gdc_launch_dependents()
    weights = (a_weight, b_weight, c_weight)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * 2, ROWS, INPUTS], x.layout)
    a = gl.allocate_shared_memory(x.dtype, [STAGES, A, INPUTS], a_weight.layout)
    b = gl.allocate_shared_memory(x.dtype, [STAGES, B, INPUTS], b_weight.layout)
    c = gl.allocate_shared_memory(x.dtype, [STAGES, C, INPUTS], c_weight.layout)
    buffers, barriers = (xs, (a, b, c)), _barriers(STAGES)
    work = (gl.program_id(0) * OUTPUTS, width, 0, gl.cdiv(inputs, INPUTS))
    normed = (squares, square_parts, eps)
    gl.warp_specialize(
        [
            (_gate, (0, y, tokens, normed, inputs, work, buffers, barriers, PARTS)),
            (_gate, (1, y, tokens, normed, inputs, work, buffers, barriers, PARTS)),
            (_copy, (x, weights, work, buffers, barriers, 2 * OUTPUTS)),
        ],
        [4, 1],
        [REGISTERS, FEW_REGISTERS],
    )


@gluon.jit
def _leave(WHICH: gl.constexpr, parts, tokens, outputs, work, buffers, barriers):
    """What one group of warps does to leave ROWS tokens of this program's outputs in a part."""
    row, _, _, steps = work
    xs, pieces = buffers
    ready, free = barriers
    STAGES: gl.constexpr = pieces[0].shape[0]
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PART_OUTPUTS, 16])
    sum_TO = gl.zeros([ROWS, PART_OUTPUTS], gl.float32, SUMS)
    for step in range(steps):
        stage = step % STAGES
        mbarrier.wait(ready.index(stage), step // STAGES & 1)
        matrix_IO = pieces[0].index(stage).permute((1, 0))
        sum_TO = warpgroup_mma(xs.index(stage * 2 + WHICH), matrix_IO, sum_TO, is_async=True)
        sum_TO = warpgroup_mma_wait(1, deps=(sum_TO,))
        mbarrier.arrive(free.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
    sum_TO = warpgroup_mma_wait(0, deps=(sum_TO,))
    token_T = WHICH * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, SUMS))
    output_O = row + gl.arange(0, PART_OUTPUTS, gl.SliceLayout(0, SUMS))
    part = parts + gl.program_id(1) * tokens * outputs
    gl.store(part + token_T[:, None] * outputs + output_O[None, :], sum_TO, mask=(token_T < tokens)[:, None])


@gluon.jit(do_not_specialize=["tokens"])
def _multiply_in_parts(x, weight, parts, tokens, outputs, inputs):
    """x, weight: descriptors of [tokens, inputs] and [outputs, inputs]; parts [num_programs(1), tokens, outputs]."""
    gdc_launch_dependents()
    xs = gl.allocate_shared_memory(x.dtype, [STAGES_OF_PARTS * 2, ROWS, INPUTS], x.layout)
    matrix = gl.allocate_shared_memory(x.dtype, [STAGES_OF_PARTS, PART_OUTPUTS, INPUTS], weight.layout)
    buffers, barriers = (xs, (matrix,)), _barriers(STAGES_OF_PARTS)
    all_steps, share, shares = gl.cdiv(inputs, INPUTS), gl.program_id(1), gl.num_programs(1)
    first = share * all_steps // shares
    steps = (share + 1) * all_steps // shares - first
    work = (gl.program_id(0) * PART_OUTPUTS, weight.block_type.shape[0], first, steps)
    gl.warp_specialize(
        [
            (_leave, (0, parts, tokens, outputs, work, buffers, barriers)),
            (_leave, (1, parts, tokens, outputs, work, buffers, barriers)),
            (_copy, (x, (weight,), work, buffers, barriers, PART_OUTPUTS)),
        ],
        [4, 1],
        [REGISTERS, FEW_REGISTERS],
    )


def why_not_gated(x: Tensor, weight: Tensor) -> str | None:
    """The reason `multiply_gated` cannot take these, or is not faster, if there is one."""
    programs, rest = divmod(len(weight) // 2, OUTPUTS.value)
    multiprocessors = card(x.device).multiprocessors
    if rest or not LEAST_SHARE * multiprocessors <= programs <= multiprocessors:
        return f"{OUTPUTS.value} outputs each are no equal shares for {multiprocessors} multiprocessors"
    return _why_not(x, weight)


def _why_not(x: Tensor, weight: Tensor) -> str | None:
    if x.dtype not in OF_16_BITS or weight.dtype != x.dtype:
        return f"computes in 16 bits, not {x.dtype} and {weight.dtype}"
    return why_not_copied(x, weight)


def multiply_gated(x: Tensor, squares: Tensor, eps: float, weight: Tensor) -> Tensor:
    """ops.gated_linear_of_weighted without a bias, for at most TOKENS tokens; squares has TOKENS columns."""
    (tokens, inputs), width = x.shape, len(weight) // 2
    y = torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    _multiply_gated[(width // OUTPUTS.value,)](
        tiles_of(x, ROWS.value, INPUTS.value), *(tiles_of(weight, piece, INPUTS.value) for piece in PIECES),
        squares, len(squares), eps, y, tokens, width, inputs, PARTS=next_power_of_2(len(squares)),
        num_warps=4, maxnreg=168, launch_pdl=True,
    )  # fmt: skip
    return y


def pays_in_parts(tokens: int, outputs: int, inputs: int) -> bool:
    """Where decode steps were measured to be faster. Source: docs/performance-log.md."""
    return FEWEST_IN_PARTS <= tokens <= TOKENS.value and outputs >= 4096 and inputs >= LEAST_INPUTS


def why_not_in_parts(x: Tensor, weight: Tensor) -> str | None:
    """As why_not_gated, for `multiply_in_parts`."""
    if len(weight) % PART_OUTPUTS.value:
        return f"{len(weight)} outputs; programs have {PART_OUTPUTS.value} each"
    return _why_not(x, weight)


def multiply_in_parts(x: Tensor, weight: Tensor) -> Tensor:
    """ops.linear_in_parts for at most TOKENS tokens, in as many parts as multiprocessors can have a program of."""
    (tokens, inputs), outputs = x.shape, len(weight)
    blocks = outputs // PART_OUTPUTS.value
    shares = max(card(x.device).multiprocessors // blocks, 1)
    parts = torch.empty(shares, tokens, outputs, dtype=torch.float32, device=x.device)
    _multiply_in_parts[(blocks, shares)](
        tiles_of(x, ROWS.value, INPUTS.value), tiles_of(weight, PART_OUTPUTS.value // 2, INPUTS.value),
        parts, tokens, outputs, inputs, num_warps=4, maxnreg=168, launch_pdl=True,
    )  # fmt: skip
    return parts
