# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Gated products of many tokens and many inputs on Hopper, by three groups of warps.

As matmul_hopper.py, but a tile has 192 tokens instead of 128, so that a fifth less is read for each number that is
made: the card's power limits these products, and with it what is moved. Three groups need all registers of a
multiprocessor, so that no warp is left to copy: the first group asks for what the next products need, STAGES - 1 ahead.

Suffixes: T tokens, O outputs.
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.descriptors import tiles_of
from lightllm.compute.kernels.triton.launch import card, cdiv
from lightllm.compute.kernels.triton.matmul_hopper import (
    HALF,
    INPUTS,
    NEIGHBOURS,
    ROWS,
    _halves,
    _place,
    _tiles,
    share,
)

GROUPS = gl.constexpr(3)
STAGES = gl.constexpr(3)
REGISTERS = gl.constexpr(168)  # of a thread
FEWEST_INPUTS = 4096
FASTER = 1.025  # than two groups, where as many programs have a tile; docs/performance-log.md


@gluon.jit
def _ask(x, weight, stage, token, row, width, column, is_there, buffers, barriers):
    """Asks for what a stage holds, and announces its bytes."""
    xs, weights, _ = buffers
    ready, free = barriers
    BYTES: gl.constexpr = GROUPS * x.block_type.nbytes + 2 * weight.block_type.nbytes
    mbarrier.expect(ready.index(stage), BYTES, pred=is_there)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(
            x, [token + group * ROWS, column], ready.index(stage), xs.index(stage * GROUPS + group), pred=is_there
        )
    for half in gl.static_range(2):
        tma.async_copy_global_to_shared(
            weight,
            [row + half * width, column],
            ready.index(stage),
            weights.index(stage).slice(half * HALF, HALF),
            pred=is_there,
        )


@gluon.jit
def _gate(WHICH: gl.constexpr, x, weight, y, work, buffers, barriers, NEIGHBOURS: gl.constexpr):
    """What one group of warps does: ROWS tokens of every tile of this program. The first group asks for stages, too."""
    token_blocks, output_blocks, steps, width = work
    xs, weights, results = buffers
    ready, free = barriers
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 2 * HALF, 16])
    result = results.index(WHICH)
    tiles = token_blocks * output_blocks
    taken = 0
    # What the first group asks for next.
    asked_tile, asked_step = gl.program_id(0), steps * 0
    asked_token, asked_row = asked_tile * 0, asked_tile * 0  # of its block
    if WHICH == 0:
        token_block, output_block = _place(asked_tile, token_blocks, output_blocks, NEIGHBOURS)
        asked_token, asked_row = token_block * (GROUPS * ROWS), output_block * HALF
        for early in gl.static_range(STAGES - 1):
            _ask(x, weight, early, asked_token, asked_row, width, early * INPUTS, True, buffers, barriers)
        asked_step = asked_step + (STAGES - 1)
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        sum_TO = gl.zeros([ROWS, 2 * HALF], gl.float32, SUMS)
        for step in range(steps):
            number = taken + step
            stage = number % STAGES
            mbarrier.wait(ready.index(stage), number // STAGES & 1)
            sum_TO = warpgroup_mma(
                xs.index(stage * GROUPS + WHICH), weights.index(stage).permute((1, 0)), sum_TO, is_async=True
            )
            sum_TO = warpgroup_mma_wait(1, deps=(sum_TO,))
            before = (number + STAGES - 1) % STAGES
            mbarrier.arrive(free.index(before), count=1, pred=step > 0)
            if WHICH == 0:
                if asked_step == steps:
                    asked_step = 0
                    asked_tile += gl.num_programs(0)
                    token_block, output_block = _place(asked_tile, token_blocks, output_blocks, NEIGHBOURS)
                    asked_token, asked_row = token_block * (GROUPS * ROWS), output_block * HALF
                is_there = asked_tile < tiles
                # All groups are done with what the stage held.
                mbarrier.wait(free.index(before), (number - 1) // STAGES & 1, pred=is_there & (number > 0))
                _ask(x, weight, before, asked_token, asked_row, width, asked_step * INPUTS, is_there, buffers, barriers)
                asked_step += 1
        sum_TO = warpgroup_mma_wait(0, deps=(sum_TO,))
        mbarrier.arrive(free.index((taken + steps - 1) % STAGES), count=1)
        taken += steps
        gate_TO, up_TO = _halves(sum_TO)
        y_TO = gate_TO / (1.0 + gl.exp(-gate_TO)) * up_TO
        # What was stored from here before has been read.
        tma.store_wait(0)
        gl.thread_barrier()
        result.store(y_TO.to(y.dtype))
        fence_async_shared()
        gl.thread_barrier()
        token_block, output_block = _place(tile, token_blocks, output_blocks, NEIGHBOURS)
        tma.async_copy_shared_to_global(y, [token_block * (GROUPS * ROWS) + WHICH * ROWS, output_block * HALF], result)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["tokens"])
def _multiply_gated_by_three(x, weight, y, tokens, width, inputs, NEIGHBOURS: gl.constexpr):
    """x, weight, y: descriptors of [tokens, inputs], [2 * width, inputs] and [tokens, width]."""
    gdc_launch_dependents()
    gdc_wait()
    RESULT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([ROWS, HALF], x.dtype)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES * GROUPS, ROWS, INPUTS], x.layout)
    weights = gl.allocate_shared_memory(x.dtype, [STAGES, 2 * HALF, INPUTS], weight.layout)
    results = gl.allocate_shared_memory(x.dtype, [GROUPS, ROWS, HALF], RESULT)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), count=1)
        # All groups of warps have to be done with a stage.
        mbarrier.init(free.index(stage), count=GROUPS)
    work = (gl.cdiv(tokens, GROUPS * ROWS), gl.cdiv(width, HALF), gl.cdiv(inputs, INPUTS), width)
    buffers, barriers = (xs, weights, results), (ready, free)
    gl.warp_specialize(
        [
            (_gate, (0, x, weight, y, work, buffers, barriers, NEIGHBOURS)),
            (_gate, (1, x, weight, y, work, buffers, barriers, NEIGHBOURS)),
            (_gate, (2, x, weight, y, work, buffers, barriers, NEIGHBOURS)),
        ],
        [4, 4],
        [REGISTERS, REGISTERS],
    )


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether it is faster here than matmul_hopper.multiply_gated; of tensors without memory: whether it may be."""
    output_blocks = cdiv(len(weight), 2 * HALF.value)
    three, two = (share(len(x), output_blocks, groups, x.device) for groups in (GROUPS.value, 2))
    return x.shape[1] >= FEWEST_INPUTS and (x.is_meta or FASTER * three > two)


def multiply_gated(x: Tensor, weight: Tensor) -> Tensor:
    """As matmul_hopper.multiply_gated, for at least two tiles of inputs."""
    (tokens, inputs), width = x.shape, len(weight) // 2
    y = torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    tiles = cdiv(tokens, GROUPS.value * ROWS.value) * cdiv(width, HALF.value)
    _multiply_gated_by_three[(min(tiles, card(x.device).multiprocessors),)](
        *_tiles(x, weight), tiles_of(y, ROWS.value, HALF.value), tokens, width, inputs, NEIGHBOURS=NEIGHBOURS,
        num_warps=4, maxnreg=REGISTERS.value, launch_pdl=True,
    )  # fmt: skip
    return y
