# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Products of a weight matrix with few tokens, on Hopper, joined with what stands before and after them in a block.

As matvec_hopper.py, with three endings. `add` adds what travels past the layer, writes the sum, the sum times the
weight of the norm that follows, and the sums of squares from which the norm's scales come. `gate` and `rotate` multiply
numbers of that kind, and scale what they have summed: the scales are worked out while the first tiles are on their way.
`rotate` has a head in each program, whose halves turn against each other, and stores keys and values.

Suffixes: O rows of the matrix, T tokens, P parts of a sum of squares.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language.extra.cuda import gdc_launch_dependents

from lightllm.compute import ops
from lightllm.compute.kernels.triton import matmul_hopper, matmul_streamed
from lightllm.compute.kernels.triton.descriptors import tiles_of
from lightllm.compute.kernels.triton.launch import (
    MEETING,
    card,
    cdiv,
    meetings,
    next_power_of_2,
    padded,
    why_not_hopper,
)
from lightllm.compute.kernels.triton.matmul_streamed import _scales
from lightllm.compute.kernels.triton.matvec_hopper import Shape, _add_parts, _ask, _fetch, _keep_part, _sum_tiles
from lightllm.compute.kernels.triton.rope import norm_rotate_store
from lightllm.compute.ops.joined import DIM, MOST_TOKENS, PART
from lightllm.compute.ops.op import Facts

SHARED_BYTES = 227_000  # of a multiprocessor
MANY_TOKENS = gl.constexpr(64)  # with more the matrix unit is as busy as the memory
LEAST_WIDTH, SMALL_WIDTH = 4096, 1024


@gluon.jit
def _sum_behind(
    x, weight, rows, first, tiles, weights, xs, ready,
    ROWS: gl.constexpr, TOKENS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """As _sum_tiles, but a tile's products begin while the last one's still run: for tokens that keep the matrix unit
    busy."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, TOKENS, 16])
    BYTES: gl.constexpr = HALVES * weight.block_type.nbytes + x.block_type.nbytes
    sum_OT = gl.zeros([ROWS, TOKENS], gl.float32, SUMS)
    other_OT = gl.zeros([ROWS, TOKENS], gl.float32, SUMS)
    for number in range(tiles):
        stage = number % STAGES
        mbarrier.wait(ready.index(stage), number // STAGES & 1)
        tokens_IT = xs.index(stage).permute((1, 0))
        sum_OT = warpgroup_mma(weights.index(stage * HALVES), tokens_IT, sum_OT, is_async=True)
        if HALVES == 2:
            other_OT = warpgroup_mma(weights.index(stage * HALVES + 1), tokens_IT, other_OT, is_async=True)
            sum_OT, other_OT = warpgroup_mma_wait(HALVES, deps=(sum_OT, other_OT))
        else:
            sum_OT = warpgroup_mma_wait(HALVES, deps=(sum_OT,))
        # All warps have read the stage before this one, which is filled again.
        gl.thread_barrier()
        ahead = number - 1 + STAGES
        is_tile = (number > 0) & (ahead < tiles)
        _fetch(weight, weights, ready, ahead % STAGES, rows, first + ahead, is_tile, BYTES, HALVES)
        tma.async_copy_global_to_shared(
            x, [0, (first + ahead) * INPUTS], ready.index(ahead % STAGES), xs.index(ahead % STAGES), pred=is_tile
        )
    sum_OT, other_OT = warpgroup_mma_wait(0, deps=(sum_OT, other_OT))
    return sum_OT, other_OT


@gluon.jit
def _sums(
    x, weight, rows, parts, counter, split, tokens, outputs, inputs, squares, square_parts, eps,
    TOKENS: gl.constexpr, ROWS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr,
    SPLITS: gl.constexpr, PARTS: gl.constexpr, MEMORY: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """The products of both halves' rows with TOKENS // SPLITS tokens from split * (TOKENS // SPLITS) on, and if PARTS
    is not 0 these tokens' scales.

    SPLITS programs share the inputs; each waits for what the others have summed. So all must run at once.
    """
    HERE: gl.constexpr = TOKENS // SPLITS
    weights = gl.allocate_shared_memory(weight.dtype, [STAGES * HALVES, ROWS, INPUTS], weight.layout)
    xs = gl.allocate_shared_memory(x.dtype, [STAGES, TOKENS, INPUTS], x.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    all_tiles = gl.cdiv(inputs, INPUTS)
    first = split * all_tiles // SPLITS
    tiles = (split + 1) * all_tiles // SPLITS - first
    BYTES: gl.constexpr = HALVES * weight.block_type.nbytes + x.block_type.nbytes
    _ask(x, x, weight, rows, first, tiles, weights, xs, xs, ready, STAGES, HALVES, 0, BYTES)
    scale_T = gl.full([HERE], 1.0, gl.float32, gl.SliceLayout(0, MEMORY))
    if PARTS > 0:
        scale_T = gl.convert_layout(
            _scales(squares, square_parts, inputs, eps, split * HERE, PARTS, TOKENS, HERE, num_warps),
            gl.SliceLayout(0, MEMORY),
        )
    if TOKENS > MANY_TOKENS:
        sum_OT, other_OT = _sum_behind(
            x, weight, rows, first, tiles, weights, xs, ready, ROWS, TOKENS, INPUTS, STAGES, HALVES, num_warps
        )
    else:
        sum_OT, other_OT = _sum_tiles(
            x, weight, rows, first, tiles, weights, xs, ready, ROWS, TOKENS, STAGES, HALVES, BYTES, num_warps
        )
    sum_OT, other_OT = gl.convert_layout(sum_OT, MEMORY), gl.convert_layout(other_OT, MEMORY)
    if SPLITS > 1:
        stride = tokens * outputs
        _keep_part(parts + split * stride, sum_OT, tokens, outputs, rows[0], ROWS, TOKENS, MEMORY)
        if HALVES == 2:
            _keep_part(parts + split * stride, other_OT, tokens, outputs, rows[1], ROWS, TOKENS, MEMORY)
        # The part of every thread is written before the one thread that counts does so.
        gl.thread_barrier()
        before = gl.atomic_add(counter, MEETING // SPLITS, sem="acq_rel")
        complete = (before & -MEETING) + MEETING
        missing = complete - before - MEETING // SPLITS
        while missing > 0:
            missing = complete - gl.atomic_add(counter, 0, sem="acq_rel")
        token = split * HERE
        mine = parts + token * outputs
        sum_OT = _add_parts(mine, stride, tokens - token, outputs, rows[0], ROWS, HERE, SPLITS, MEMORY)
        other_OT = sum_OT
        if HALVES == 2:
            other_OT = _add_parts(mine, stride, tokens - token, outputs, rows[1], ROWS, HERE, SPLITS, MEMORY)
    return sum_OT, other_OT, scale_T


@gluon.jit(do_not_specialize=["tokens", "square_parts"])
def _gate(
    x, weight, squares, square_parts, eps, bias, y, tokens, outputs, inputs,
    TOKENS: gl.constexpr, ROWS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr,
    PARTS: gl.constexpr, BIASED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Writes y [tokens, outputs]; the matrix has as many rows of gates, then of what they gate."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    row = gl.program_id(0) * ROWS
    gate_OT, up_OT, scale_T = _sums(
        x, weight, (row, outputs + row), y, y, 0, tokens, outputs, inputs, squares, square_parts, eps,
        TOKENS, ROWS, INPUTS, STAGES, 2, 1, PARTS, MEMORY, num_warps,
    )  # fmt: skip
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, MEMORY))
    token_T = gl.arange(0, TOKENS, gl.SliceLayout(0, MEMORY))
    is_row_O = row_O < outputs
    gate_OT *= scale_T[None, :]
    up_OT *= scale_T[None, :]
    if BIASED:
        gate_OT += gl.load(bias + row_O, mask=is_row_O, other=0.0).to(gl.float32)[:, None]
        up_OT += gl.load(bias + outputs + row_O, mask=is_row_O, other=0.0).to(gl.float32)[:, None]
    y_OT = gate_OT / (1.0 + gl.exp(-gate_OT)) * up_OT
    mask_OT = is_row_O[:, None] & (token_T < tokens)[None, :]
    gl.store(y + token_T[None, :] * outputs + row_O[:, None], y_OT.to(y.dtype.element_ty), mask=mask_OT)


@gluon.jit
def _add_rows(
    sum_OT, row, token_T, residual, residual_stride, norm_weight, total, weighted, tokens, outputs,
    ROWS: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """Adds and writes one tile of rows; returns each token's sum of squares over them."""
    row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    is_row_O = row_O < outputs
    mask_OT = is_row_O[:, None] & (token_T < tokens)[None, :]
    before_OT = gl.load(residual + token_T[None, :] * residual_stride + row_O[:, None], mask=mask_OT, other=0.0)
    weight_O = gl.load(norm_weight + row_O, mask=is_row_O, other=0.0).to(gl.float32)
    total_OT = (sum_OT + before_OT.to(gl.float32)).to(total.dtype.element_ty)
    at_OT = token_T[None, :] * outputs + row_O[:, None]
    gl.store(total + at_OT, total_OT, mask=mask_OT)
    # Rounded before its squares are summed: the sum that travels on is the one that is normed.
    wide_OT = total_OT.to(gl.float32)
    gl.store(weighted + at_OT, (wide_OT * weight_O[:, None]).to(weighted.dtype.element_ty), mask=mask_OT)
    return gl.sum(wide_OT * wide_OT, axis=0)


@gluon.jit(do_not_specialize=["tokens"])
def _add(
    x, weight, residual, residual_stride, norm_weight, total, weighted, squares, parts, counters,
    tokens, outputs, inputs,
    TOKENS: gl.constexpr, ROWS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, HALVES: gl.constexpr,
    SPLITS: gl.constexpr, PARTS: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Writes total and weighted [tokens, outputs], and squares [blocks, TOKENS]. PARTS: 0."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    HERE: gl.constexpr = TOKENS // SPLITS
    block, split = gl.program_id(0), gl.program_id(1)
    row = block * (ROWS * HALVES)
    rows = (row, row + ROWS)
    sum_OT, other_OT, _ = _sums(
        x, weight, rows, parts, counters + block, split, tokens, outputs, inputs, squares, 0, 0.0,
        TOKENS, ROWS, INPUTS, STAGES, HALVES, SPLITS, PARTS, MEMORY, num_warps,
    )  # fmt: skip
    token_T = split * HERE + gl.arange(0, HERE, gl.SliceLayout(0, MEMORY))
    more = (token_T, residual, residual_stride, norm_weight, total, weighted, tokens, outputs)
    square_T = _add_rows(sum_OT, rows[0], *more, ROWS, MEMORY)
    if HALVES == 2:
        square_T += _add_rows(other_OT, rows[1], *more, ROWS, MEMORY)
    gl.store(squares + block * TOKENS + token_T, square_T)


@gluon.jit
def _store_head(to_T, a_OT, b_OT, is_token_T, ROWS: gl.constexpr, LAYOUT: gl.constexpr):
    """Both halves of a head of each token, to_T pointing at the first numbers."""
    row_O = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    to_OT = to_T[None, :] + row_O[:, None]
    element = to_T.dtype.element_ty
    gl.store(to_OT, a_OT.to(element), mask=is_token_T[None, :])
    gl.store(to_OT + ROWS, b_OT.to(element), mask=is_token_T[None, :])


@gluon.jit
def _norm_rotate(
    a_OT, b_OT, weight, head_eps, position_T, table, table_stride, is_token_T,
    ROWS: gl.constexpr, NORMED: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """A head of each token after its norm, turned by the angles of its position."""
    row_O = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))
    if NORMED:
        scale_T = gl.rsqrt(gl.sum(a_OT * a_OT + b_OT * b_OT, axis=0) / (2 * ROWS) + head_eps)
        a_OT *= scale_T[None, :] * gl.load(weight + row_O).to(gl.float32)[:, None]
        b_OT *= scale_T[None, :] * gl.load(weight + ROWS + row_O).to(gl.float32)[:, None]
    angle_OT = table + (position_T * table_stride)[None, :] + row_O[:, None]
    cos_OT = gl.load(angle_OT, mask=is_token_T[None, :], other=0.0)
    sin_OT = gl.load(angle_OT + ROWS, mask=is_token_T[None, :], other=0.0)
    return a_OT * cos_OT - b_OT * sin_OT, b_OT * cos_OT + a_OT * sin_OT


@gluon.jit(do_not_specialize=["tokens", "square_parts"])
def _rotate(
    x, weight, squares, square_parts, eps, bias, q_weight, k_weight, head_eps, positions, table, slots,
    q, keys, values, parts, counters, tokens, outputs, inputs, heads, kv_heads,
    table_stride, keys_stride, keys_head_stride, values_stride, values_head_stride,
    TOKENS: gl.constexpr, ROWS: gl.constexpr, INPUTS: gl.constexpr, STAGES: gl.constexpr, SPLITS: gl.constexpr,
    PARTS: gl.constexpr, BIASED: gl.constexpr, NORMED: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Writes q [tokens, heads, 2 * ROWS] and the slots of keys and values. A block is a head: of q, then k, then v."""
    gdc_launch_dependents()
    MEMORY: gl.constexpr = gl.BlockedLayout([2, 1], [32, 1], [1, num_warps], [0, 1])
    HERE: gl.constexpr = TOKENS // SPLITS
    head, split = gl.program_id(0), gl.program_id(1)
    row = head * (2 * ROWS)
    a_OT, b_OT, scale_T = _sums(
        x, weight, (row, row + ROWS), parts, counters + head, split, tokens, outputs, inputs, squares, square_parts,
        eps, TOKENS, ROWS, INPUTS, STAGES, 2, SPLITS, PARTS, MEMORY, num_warps,
    )  # fmt: skip
    token_T = split * HERE + gl.arange(0, HERE, gl.SliceLayout(0, MEMORY))
    is_token_T = token_T < tokens
    a_OT *= scale_T[None, :]
    b_OT *= scale_T[None, :]
    if BIASED:
        row_O = row + gl.arange(0, ROWS, gl.SliceLayout(1, MEMORY))
        a_OT += gl.load(bias + row_O).to(gl.float32)[:, None]
        b_OT += gl.load(bias + ROWS + row_O).to(gl.float32)[:, None]
    position_T = gl.load(positions + token_T, mask=is_token_T, other=0)
    slot_T = gl.load(slots + token_T, mask=is_token_T, other=0)
    how = (head_eps, position_T, table, table_stride, is_token_T)
    if head < heads:
        a_OT, b_OT = _norm_rotate(a_OT, b_OT, q_weight, *how, ROWS, NORMED, MEMORY)
        to_T = q + (token_T * heads + head) * (2 * ROWS)
        _store_head(to_T, a_OT, b_OT, is_token_T, ROWS, MEMORY)
    elif head < heads + kv_heads:
        a_OT, b_OT = _norm_rotate(a_OT, b_OT, k_weight, *how, ROWS, NORMED, MEMORY)
        to_T = keys + slot_T * keys_stride + (head - heads) * keys_head_stride
        _store_head(to_T, a_OT, b_OT, is_token_T, ROWS, MEMORY)
    else:
        to_T = values + slot_T * values_stride + (head - heads - kv_heads) * values_head_stride
        _store_head(to_T, a_OT, b_OT, is_token_T, ROWS, MEMORY)


def _tiles(x: Tensor, weight: Tensor, shape: Shape) -> tuple[TensorDescriptor, TensorDescriptor]:
    """How x and the weight are cut into tiles."""
    return tiles_of(x, padded(len(x)), shape.inputs), tiles_of(weight, shape.rows, shape.inputs)


def _meeting(x: Tensor, weight: Tensor, shape: Shape, blocks: int) -> tuple[Tensor, Tensor]:
    """Room for what programs that share rows have summed, and the counters by which they wait for one another."""
    at_once = card(x.device).multiprocessors * (SHARED_BYTES // _shared_bytes(shape, padded(len(x))))
    assert shape.splits == 1 or blocks * shape.splits <= at_once, "programs that wait for one another run at once"
    count = len(x) * len(weight) * shape.splits if shape.splits > 1 else 0
    return torch.empty(count, dtype=torch.float32, device=x.device), meetings(x.device)


def _shared_bytes(shape: Shape, tokens: int) -> int:
    """What a program has, but for a few hundred bytes."""
    return 2 * shape.stages * (shape.rows * shape.halves + tokens) * shape.inputs


def _compile_time(x: Tensor, squares: Tensor | None, shape: Shape) -> dict[str, int]:
    return {
        "TOKENS": padded(len(x)),
        "ROWS": shape.rows,
        "INPUTS": shape.inputs,
        "STAGES": shape.stages,
        "PARTS": 0 if squares is None else next_power_of_2(len(squares)),
        "num_warps": shape.warps,
    }


def _columns(squares: Tensor | None, tokens: int) -> Tensor | None:
    """Squares with a column for each token that tokens are padded to."""
    if squares is None or squares.stride() == (padded(tokens), 1):
        return squares
    return F.pad(squares, (0, padded(tokens) - tokens)).contiguous()


def shape_to_gate(tokens: int) -> Shape:
    """Parameters of the product of gates. Source: docs/performance-log.md."""
    if tokens > MANY_TOKENS.value:
        return Shape(inputs=64, stages=4, halves=2, warps=8)
    return Shape(inputs=128, stages=6 if tokens <= 16 else 3, halves=2)


def shape_to_share(tokens: int, outputs: int, inputs: int, multiprocessors: int, *, halves: int) -> Shape:
    """Parameters of the products whose programs have PART outputs each, in one tile or two halves.

    As many programs as run at once, each of which asks for as much as it has room for.
    """
    one = Shape(inputs=64 if tokens > MANY_TOKENS.value else 128, stages=1, halves=halves, warps=8 // halves)
    tiles = cdiv(inputs, one.inputs)
    most = min(multiprocessors * PART // outputs, tiles, MEETING.value, tokens)
    splits = 1 << max(most.bit_length() - 1, 0)
    stages = min(SHARED_BYTES // _shared_bytes(one, tokens), max(cdiv(tiles, splits), 2))
    return replace(one, stages=stages, splits=splits)


def why_not_joined(facts: Facts) -> str | None:
    """The reason nothing here can run, if there is one."""
    if (reason := why_not_hopper(facts)) is not None:
        return reason
    return None if facts.dtype == torch.bfloat16 else f"sums times weights may be too large for {facts.dtype}"


def _pays(tokens: int, width: int) -> bool:
    """Where decode steps were measured to be faster. Source: docs/performance-log.md."""
    return width >= LEAST_WIDTH and MANY_TOKENS.value < tokens <= MOST_TOKENS


def _pays_to_rotate(tokens: int, width: int) -> bool:
    """As _pays. Where steps are short, attention rather has a kernel before it in which it can begin; in small models
    a kernel less counts for more. Long steps are bound by the memory that is not read and written again."""
    return (tokens <= 16 and width <= SMALL_WIDTH) or tokens >= matmul_hopper.FEWEST_TOKENS


@ops.gated_linear_of_weighted.implementation("gluon", why_not_joined, _pays)
def gated_linear_of_weighted(x: Tensor, squares: Tensor, eps: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    (tokens, inputs), outputs = x.shape, len(weight) // 2
    if tokens > MANY_TOKENS.value and bias is None and matmul_streamed.why_not_gated(x, weight) is None:
        return matmul_streamed.multiply_gated(x, _columns(squares, tokens), eps, weight)
    shape = shape_to_gate(padded(tokens))
    y = torch.empty(tokens, outputs, dtype=x.dtype, device=x.device)
    _gate[(cdiv(outputs, shape.rows),)](
        *_tiles(x, weight, shape), _columns(squares, tokens), len(squares), eps, bias, y, tokens, outputs, inputs,
        **_compile_time(x, squares, shape), BIASED=bias is not None, launch_pdl=True,
    )  # fmt: skip
    return y


@ops.linear_add_weigh.implementation("gluon", why_not_joined, _pays)
def linear_add_weigh(x: Tensor, weight: Tensor, residual: Tensor, norm_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (tokens, inputs), outputs = x.shape, len(weight)
    sizes = (padded(tokens), outputs, inputs, card(x.device).multiprocessors)
    shape = shape_to_share(*sizes, halves=1 if tokens > MANY_TOKENS.value else 2)
    blocks = outputs // PART
    total, weighted = (torch.empty(tokens, outputs, dtype=x.dtype, device=x.device) for _ in range(2))
    squares = torch.empty(blocks, padded(tokens), dtype=torch.float32, device=x.device)
    _add[(blocks, shape.splits)](
        *_tiles(x, weight, shape), residual, residual.stride(0), norm_weight, total, weighted, squares,
        *_meeting(x, weight, shape, blocks), tokens, outputs, inputs,
        **_compile_time(x, None, shape), HALVES=shape.halves, SPLITS=shape.splits, launch_pdl=True,
    )  # fmt: skip
    return weighted, squares[:, :tokens], total


@ops.linear_rotate_store.implementation("gluon", why_not_joined, _pays_to_rotate)
def linear_rotate_store(
    x: Tensor,
    squares: Tensor | None,
    eps: float,
    weight: Tensor,
    bias: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    head_eps: float,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    (tokens, inputs), outputs, kv_heads = x.shape, len(weight), keys.shape[1]
    if tokens > MOST_TOKENS:
        assert squares is None, f"{tokens} tokens; at most {MOST_TOKENS} lack their norm's scales"
        how = q_weight, k_weight, head_eps, positions, table, slots, keys, values
        if matmul_hopper.why_not_rotated(x, weight, kv_heads) is None:
            return matmul_hopper.multiply_rotated(x, weight, bias, *how)
        heads = F.linear(x, weight, bias).unflatten(1, (-1, DIM))
        return norm_rotate_store(*heads.split([heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1), *how)
    shape = shape_to_share(padded(tokens), outputs, inputs, card(x.device).multiprocessors, halves=2)
    assert PART == DIM == keys.shape[2], "a program has a head"
    blocks = outputs // DIM
    heads = blocks - 2 * kv_heads
    q = torch.empty(tokens, heads, DIM, dtype=x.dtype, device=x.device)
    _rotate[(blocks, shape.splits)](
        *_tiles(x, weight, shape), _columns(squares, tokens), 0 if squares is None else len(squares), eps, bias,
        q_weight, k_weight, head_eps, positions, table, slots, q, keys, values, *_meeting(x, weight, shape, blocks),
        tokens, outputs, inputs, heads, kv_heads, table.stride(0), keys.stride(0), keys.stride(1),
        values.stride(0), values.stride(1), **_compile_time(x, squares, shape), SPLITS=shape.splits,
        BIASED=bias is not None, NORMED=q_weight is not None, launch_pdl=True,
    )  # fmt: skip
    return q
