# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of many tokens on Hopper, joined with what follows them, so that what they make is not written and read.

Gates, what they gate and the activation of both are one kernel; queries, keys and values, their rotation and storing
another. A tile is ROWS tokens for each of two groups of four warps, and two times HALF outputs: gates beside what they
gate, so that the sums of both are in the same registers when the activation needs them, or two heads. One warp copies
tiles, STAGES of INPUTS columns ahead, also those of the next tile while this one ends. A program takes tile after tile,
and those that run at once have tiles of few rows and few columns, which the second cache holds. The products alone are
as fast as the library's, which the card's power limits. In Gluon, Triton's lower level, because Triton 3.6 cannot be
told to do this.

Suffixes: T tokens, O outputs, R tokens as they are stored, D pairs of numbers in a head, of which `a` and `b` are the
two.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.descriptors import OF_16_BITS, tiles_of, why_not_copied
from lightllm.compute.kernels.triton.launch import card, cdiv

ROWS = gl.constexpr(64)  # tokens of a group of warps: the height of a matrix instruction
HALF = gl.constexpr(128)  # outputs, of which two are as many as the widest matrix instruction has
INPUTS = gl.constexpr(64)  # of a stage: a line of shared memory
STAGES = gl.constexpr(4)  # with one tile of results what fits in shared memory
FEWEST_TOKENS = 1024  # steps of so many are among those that kernels are compiled for at start
DECODED = 4 * ROWS.value  # of fewer, gates of so many tokens were faster, too: those of the largest decodes
# Of the tiles that all programs could compute in as many rounds; with fewer the library was faster.
LEAST_SHARE_GATED, LEAST_SHARE_ROTATED = 0.75, 0.9
NEIGHBOURS = 16  # blocks of tokens that are computed side by side
REGISTERS = gl.constexpr(240)  # a thread of a group that multiplies: what is left by the one that copies
FEW_REGISTERS = gl.constexpr(24)


@gluon.jit
def _place(tile, token_blocks, output_blocks, NEIGHBOURS: gl.constexpr):
    """Which block of tokens and of outputs a tile is."""
    first = tile // (NEIGHBOURS * output_blocks) * NEIGHBOURS
    neighbours = gl.minimum(token_blocks - first, NEIGHBOURS)
    here = tile % (NEIGHBOURS * output_blocks)
    return first + here % neighbours, here // neighbours


@gluon.jit
def _copy(x, weight, work, buffers, barriers, NEIGHBOURS: gl.constexpr):
    """What the warp that copies does. Its first wait for each stage returns at once.

    A block of outputs is HALF rows of the matrix and those `apart` behind them; blocks begin every `stride` rows.
    """
    token_blocks, output_blocks, steps, stride, apart = work
    xs, weights, _ = buffers
    ready, free = barriers
    BYTES: gl.constexpr = 2 * x.block_type.nbytes + 2 * weight.block_type.nbytes
    copied = 0
    for tile in range(gl.program_id(0), token_blocks * output_blocks, gl.num_programs(0)):
        token_block, output_block = _place(tile, token_blocks, output_blocks, NEIGHBOURS)
        token, row = token_block * (2 * ROWS), output_block * stride
        for step in range(steps):
            stage, column = copied % STAGES, step * INPUTS
            mbarrier.wait(free.index(stage), copied // STAGES & 1 ^ 1)
            mbarrier.expect(ready.index(stage), BYTES)
            for half in gl.static_range(2):
                tma.async_copy_global_to_shared(
                    x, [token + half * ROWS, column], ready.index(stage), xs.index(stage * 2 + half)
                )
                tma.async_copy_global_to_shared(
                    weight, [row + half * apart, column], ready.index(stage),
                    weights.index(stage).slice(half * HALF, HALF),
                )  # fmt: skip
            copied += 1


@gluon.jit
def _sum_tile(WHICH: gl.constexpr, taken, steps, buffers, barriers):
    """The products of one group's ROWS tokens of a tile. taken: stages before this tile."""
    xs, weights, _ = buffers
    ready, free = barriers
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 2 * HALF, 16])
    sum_TO = gl.zeros([ROWS, 2 * HALF], gl.float32, SUMS)
    for number in range(taken, taken + steps):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        sum_TO = warpgroup_mma(xs.index(stage * 2 + WHICH), weights.index(stage).permute((1, 0)), sum_TO, is_async=True)
        # One product stays under way; the stage of the one before it may be filled again.
        sum_TO = warpgroup_mma_wait(1, deps=(sum_TO,))
        mbarrier.arrive(free.index((number + STAGES - 1) % STAGES), count=1, pred=number > taken)
    sum_TO = warpgroup_mma_wait(0, deps=(sum_TO,))
    mbarrier.arrive(free.index((taken + steps - 1) % STAGES), count=1)
    return sum_TO


@gluon.jit
def _halves(x_TO):
    """Two halves of the columns, whose numbers are in the same threads."""
    WIDTH: gl.constexpr = x_TO.shape[1] // 2
    return x_TO.reshape([x_TO.shape[0], 2, WIDTH]).permute((0, 2, 1)).split()


@gluon.jit
def _gate(WHICH: gl.constexpr, y, work, buffers, barriers, NEIGHBOURS: gl.constexpr):
    """What one group of warps does to multiply gates and ups: ROWS tokens of every tile of this program."""
    token_blocks, output_blocks, steps, _, _ = work
    result = buffers[2].index(WHICH)
    taken = 0
    for tile in range(gl.program_id(0), token_blocks * output_blocks, gl.num_programs(0)):
        gate_TO, up_TO = _halves(_sum_tile(WHICH, taken, steps, buffers, barriers))
        taken += steps
        y_TO = gate_TO / (1.0 + gl.exp(-gate_TO)) * up_TO
        # What was stored from here before has been read.
        tma.store_wait(0)
        gl.thread_barrier()
        result.store(y_TO.to(y.dtype))
        fence_async_shared()
        gl.thread_barrier()
        token_block, output_block = _place(tile, token_blocks, output_blocks, NEIGHBOURS)
        tma.async_copy_shared_to_global(y, [token_block * (2 * ROWS) + WHICH * ROWS, output_block * HALF], result)
    tma.store_wait(0)


@gluon.jit
def _rotate(
    WHICH: gl.constexpr, memory, work, buffers, barriers,
    NEIGHBOURS: gl.constexpr, BIASED: gl.constexpr, NORMED: gl.constexpr,
):  # fmt: skip
    """The same for two heads of queries, keys or values: norms and turns them, and writes keys and values by slots."""
    (
        bias, q_weight, k_weight, eps, positions, table, slots, q, keys, values, tokens, heads, kv_heads,
        table_stride, q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    ) = memory  # fmt: skip
    token_blocks, output_blocks, steps, _, _ = work
    PAIRS: gl.constexpr = HALF // 2
    MEMORY: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    result = buffers[2].index(WHICH)
    taken = 0
    for tile in range(gl.program_id(0), token_blocks * output_blocks, gl.num_programs(0)):
        sum_TO = _sum_tile(WHICH, taken, steps, buffers, barriers)
        taken += steps
        token_block, output_block = _place(tile, token_blocks, output_blocks, NEIGHBOURS)
        first, head = token_block * (2 * ROWS) + WHICH * ROWS, output_block * 2
        is_query, is_turned = head < heads, head < heads + kv_heads
        if BIASED:
            column_O = gl.arange(0, 2 * HALF, gl.SliceLayout(0, sum_TO.type.layout))
            sum_TO += gl.load(bias + output_block * (2 * HALF) + column_O).to(gl.float32)[None, :]
        one_TO, other_TO = _halves(sum_TO)
        a_TD, b_TD = _halves(one_TO)
        token_T = first + gl.arange(0, ROWS, gl.SliceLayout(1, a_TD.type.layout))
        pair_D = gl.arange(0, PAIRS, gl.SliceLayout(0, a_TD.type.layout))
        # Values are turned by nothing.
        is_turned_TD = (is_turned & (token_T < tokens))[:, None] & (pair_D < PAIRS)[None, :]
        position_T = gl.load(positions + token_T, mask=token_T < tokens, other=0)
        angle_TD = table + position_T[:, None] * table_stride + pair_D[None, :]
        cos_TD = gl.load(angle_TD, mask=is_turned_TD, other=1.0)
        sin_TD = gl.load(angle_TD + PAIRS, mask=is_turned_TD, other=0.0)
        row_R = first + gl.arange(0, ROWS, gl.SliceLayout(1, MEMORY))
        column_O = gl.arange(0, HALF, gl.SliceLayout(0, MEMORY))
        slot_R = gl.load(slots + row_R, mask=row_R < tokens, other=0)
        if is_query:
            head_stride = q_head_stride
            to_R = q + row_R.to(gl.int64) * q_stride + head * head_stride
        elif is_turned:
            head_stride = keys_head_stride
            to_R = keys + slot_R * keys_stride + (head - heads) * head_stride
        else:
            head_stride = values_head_stride
            to_R = values + slot_R * values_stride + (head - heads - kv_heads) * head_stride
        for which in gl.static_range(2):
            if which == 1:
                a_TD, b_TD = _halves(other_TO)
            if NORMED:
                norm_weight = q_weight
                if not is_query:
                    norm_weight = k_weight
                weight_D, is_weight_D = norm_weight + pair_D, is_turned & (pair_D < PAIRS)
                a_weight_D = gl.load(weight_D, mask=is_weight_D, other=1.0).to(gl.float32)
                b_weight_D = gl.load(weight_D + PAIRS, mask=is_weight_D, other=1.0).to(gl.float32)
                scale_T = gl.rsqrt((gl.sum(a_TD * a_TD, axis=1) + gl.sum(b_TD * b_TD, axis=1)) / HALF + eps)
                scale_T = gl.where(is_turned, scale_T, 1.0)
                a_TD, b_TD = (
                    a_TD * scale_T[:, None] * a_weight_D[None, :],
                    b_TD * scale_T[:, None] * b_weight_D[None, :],
                )
            turned_TD = gl.join(a_TD * cos_TD - b_TD * sin_TD, b_TD * cos_TD + a_TD * sin_TD)
            head_TO = turned_TD.permute((0, 2, 1)).reshape([ROWS, HALF])
            # All warps have read the head before.
            gl.thread_barrier()
            result.store(head_TO.to(q.dtype.element_ty))
            gl.thread_barrier()
            to_RO = to_R[:, None] + which * head_stride + column_O[None, :]
            gl.store(to_RO, result.load(MEMORY), mask=(row_R < tokens)[:, None] & (column_O < HALF)[None, :])


@gluon.jit
def _room(x, weight):
    """Shared memory for stages of tokens and of the matrix and for results, and its barriers."""
    RESULT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, HALF], x.dtype)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * 2, ROWS, INPUTS], x.layout)
    weights = gl.allocate_shared_memory(x.dtype, [STAGES, 2 * HALF, INPUTS], weight.layout)
    results = gl.allocate_shared_memory(x.dtype, [2, ROWS, HALF], RESULT)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        # Both groups of warps have to be done with a stage.
        mbarrier.init(free.index(stage), count=2)
    return (xs, weights, results), (ready, free)


@gluon.jit(do_not_specialize=["tokens"])
def _multiply_gated(x, weight, y, tokens, width, inputs, NEIGHBOURS: gl.constexpr):
    """x, weight, y: descriptors of [tokens, inputs], [2 * width, inputs] and [tokens, width]."""
    gdc_launch_dependents()
    gdc_wait()
    buffers, barriers = _room(x, weight)
    work = (gl.cdiv(tokens, 2 * ROWS), gl.cdiv(width, HALF), gl.cdiv(inputs, INPUTS), HALF, width)
    gl.warp_specialize(
        [
            (_gate, (0, y, work, buffers, barriers, NEIGHBOURS)),
            (_gate, (1, y, work, buffers, barriers, NEIGHBOURS)),
            (_copy, (x, weight, work, buffers, barriers, NEIGHBOURS)),
        ],
        [4, 1],
        [REGISTERS, FEW_REGISTERS],
    )


@gluon.jit(do_not_specialize=["tokens"])
def _multiply_rotated(
    x, weight, bias, q_weight, k_weight, eps, positions, table, slots, q, keys, values,
    tokens, inputs, heads, kv_heads, table_stride, q_stride, q_head_stride, keys_stride, keys_head_stride,
    values_stride, values_head_stride,
    NEIGHBOURS: gl.constexpr, BIASED: gl.constexpr, NORMED: gl.constexpr,
):  # fmt: skip
    """x, weight: descriptors of [tokens, inputs] and [(heads + 2 * kv_heads) * HALF, inputs]."""
    gdc_launch_dependents()
    gdc_wait()
    buffers, barriers = _room(x, weight)
    memory = (
        bias, q_weight, k_weight, eps, positions, table, slots, q, keys, values, tokens, heads, kv_heads,
        table_stride, q_stride, q_head_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    )  # fmt: skip
    work = (gl.cdiv(tokens, 2 * ROWS), heads // 2 + kv_heads, gl.cdiv(inputs, INPUTS), 2 * HALF, HALF)
    gl.warp_specialize(
        [
            (_rotate, (0, memory, work, buffers, barriers, NEIGHBOURS, BIASED, NORMED)),
            (_rotate, (1, memory, work, buffers, barriers, NEIGHBOURS, BIASED, NORMED)),
            (_copy, (x, weight, work, buffers, barriers, NEIGHBOURS)),
        ],
        [4, 1],
        [REGISTERS, FEW_REGISTERS],
    )


def why_not_gated(x: Tensor, weight: Tensor) -> str | None:
    """The reason `multiply_gated` cannot take these, or the library should, if there is one."""
    width = len(weight) // 2
    if width * x.element_size() % 16:
        return "the copy engine needs rows of results that begin at multiples of 16 bytes"
    if len(x) < FEWEST_TOKENS and len(x) != DECODED:
        return f"{len(x)} tokens are too few"
    return _why_not(x, weight, cdiv(width, HALF.value), LEAST_SHARE_GATED)


def why_not_rotated(x: Tensor, weight: Tensor, kv_heads: int) -> str | None:
    """The same for `multiply_rotated`."""
    heads = len(weight) // HALF.value
    if heads % 2 or kv_heads % 2:
        return f"{heads} heads, {kv_heads} of them of keys: computes two at once"
    if len(x) < FEWEST_TOKENS:
        return f"{len(x)} tokens are too few"
    return _why_not(x, weight, heads // 2, LEAST_SHARE_ROTATED)


def _why_not(x: Tensor, weight: Tensor, output_blocks: int, least_share: float) -> str | None:
    if x.dtype not in OF_16_BITS or weight.dtype != x.dtype:
        return f"computes in 16 bits, not {x.dtype} and {weight.dtype}"
    if reason := why_not_copied(x, weight):
        return reason
    # Kernels are compiled at start by steps of a few sizes, of tensors without memory.
    is_full = x.is_meta or share(len(x), output_blocks, 2, x.device) >= least_share
    if not is_full:
        return f"{len(x)} tokens leave too many programs without a tile"
    return None


def share(tokens: int, output_blocks: int, groups: int, device: torch.device) -> float:
    """Of the tiles that all programs could compute in as many rounds. groups: of warps, for ROWS tokens each."""
    rows, programs = groups * ROWS.value, card(device).multiprocessors
    rounds = cdiv(cdiv(tokens, rows) * output_blocks, programs)
    return tokens / rows * output_blocks / (rounds * programs)


def _blocks(tokens: int) -> int:
    return cdiv(tokens, 2 * ROWS.value)


def multiply_gated(x: Tensor, weight: Tensor) -> Tensor:
    """ops.gated_linear without a bias, for any number of tokens but none."""
    (tokens, inputs), width = x.shape, len(weight) // 2
    y = torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    tiles = _blocks(tokens) * cdiv(width, HALF.value)
    _multiply_gated[(min(tiles, card(x.device).multiprocessors),)](
        *_tiles(x, weight), tiles_of(y, ROWS.value, HALF.value), tokens, width, inputs, NEIGHBOURS=NEIGHBOURS,
        num_warps=4, maxnreg=168, launch_pdl=True,
    )  # fmt: skip
    return y


def multiply_rotated(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """ops.linear_rotate_store of what needs no scales, for even numbers of heads and any number of tokens but none."""
    (tokens, inputs), kv_heads = x.shape, keys.shape[1]
    heads = len(weight) // HALF.value - 2 * kv_heads
    q = torch.empty(tokens, heads, HALF.value, dtype=x.dtype, device=x.device)
    tiles = _blocks(tokens) * (heads // 2 + kv_heads)
    _multiply_rotated[(min(tiles, card(x.device).multiprocessors),)](
        *_tiles(x, weight), bias, q_weight, k_weight, eps, positions, table, slots, q, keys, values, tokens, inputs,
        heads, kv_heads, table.stride(0), q.stride(0), q.stride(1), keys.stride(0), keys.stride(1),
        values.stride(0), values.stride(1), NEIGHBOURS=NEIGHBOURS, BIASED=bias is not None,
        NORMED=q_weight is not None, num_warps=4, maxnreg=168,
        launch_pdl=True,
    )  # fmt: skip
    return q


def _tiles(x: Tensor, weight: Tensor) -> tuple[TensorDescriptor, TensorDescriptor]:
    return tiles_of(x, ROWS.value, INPUTS.value), tiles_of(weight, HALF.value, INPUTS.value)
