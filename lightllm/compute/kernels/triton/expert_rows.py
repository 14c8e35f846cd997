# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Which rows each expert computes, and what tokens get of them.

A pair is a token and one of its choices, numbered token * top_k + choice. Pairs sorted by expert are rows. An expert's
rows are cut into blocks of one size, which are listed in a table, so that products know their work without the host:
the table has room for the worst case, and programs past its end have nothing to do.
Suffixes: E experts, I pairs, J the same pairs, C columns.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, next_power_of_2

PAIRS = (32, 128)  # that a program places: few are ranked faster; where there are many, programs are many already
SCANNED = (512, 2048)  # pairs that are counted at once, if there are no more than the first, and otherwise
MANY = 4096  # pairs from which on they are counted by a kernel of its own
ENTRY = tl.constexpr(4)  # numbers of an entry: expert, first row, end of the expert's rows; the first entry: how many
COLUMNS = 1024


@dataclass(frozen=True)
class Rows:
    """order [pairs] int32: the pair of each row; place [pairs] int32: the row of each pair, -1 if its expert is not
    here; table [1 + most_blocks, ENTRY] int32; block: rows of a block."""

    block: int
    order: Tensor
    place: Tensor
    table: Tensor

    @property
    def most_blocks(self) -> int:
        return len(self.table) - 1


@triton.jit
def _experts_of(choice, pair_I, pairs, first, experts):
    """The local expert of each pair, and whether it is one."""
    expert_I = tl.load(choice + pair_I, mask=pair_I < pairs, other=-1).to(tl.int32) - first
    is_here_I = (pair_I < pairs) & (expert_I >= 0) & (expert_I < experts)
    return tl.where(is_here_I, expert_I, 0), is_here_I


@triton.jit(do_not_specialize=["pairs", "first"])
def _count(choice, counts, pairs, first, experts, SCAN: tl.constexpr, EXPERTS: tl.constexpr, DEPENDENT: tl.constexpr):
    """How many of SCAN pairs are each expert's: a line of `counts`."""
    begin(DEPENDENT)
    pair_S = tl.program_id(0) * SCAN + tl.arange(0, SCAN)
    expert_S, is_here_S = _experts_of(choice, pair_S, pairs, first, experts)
    count_E = tl.histogram(expert_S, EXPERTS, mask=is_here_S)
    tl.store(counts + tl.program_id(0) * EXPERTS + tl.arange(0, EXPERTS), count_E)


@triton.jit(do_not_specialize=["pairs", "first", "lines"])
def _sort(
    choice, counts, order, place, table, pairs, first, experts, lines,
    ROWS: tl.constexpr, PAIRS: tl.constexpr, SCAN: tl.constexpr, EXPERTS: tl.constexpr, COUNTED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Every program counts all pairs, or reads `lines` of counts, then places PAIRS of them. The first one writes the
    table, of blocks of ROWS."""
    begin_pair = tl.program_id(0) * PAIRS
    expert_E = tl.arange(0, EXPERTS)
    all_E, before_E = tl.zeros([EXPERTS], tl.int32), tl.zeros([EXPERTS], tl.int32)
    begin(DEPENDENT)
    first_pair, end_pair = 0, pairs
    if COUNTED:
        own = begin_pair // SCAN
        for line in range(lines):
            count_E = tl.load(counts + line * EXPERTS + expert_E)
            all_E += count_E
            before_E += tl.where(line < own, count_E, 0)
        first_pair, end_pair = own * SCAN, begin_pair
    for start in range(first_pair, end_pair, SCAN):
        pair_S = start + tl.arange(0, SCAN)
        expert_S, is_here_S = _experts_of(choice, pair_S, pairs, first, experts)
        if not COUNTED:
            all_E += tl.histogram(expert_S, EXPERTS, mask=is_here_S)
        if start < begin_pair:
            before_E += tl.histogram(expert_S, EXPERTS, mask=is_here_S & (pair_S < begin_pair))
    start_E = tl.cumsum(all_E, axis=0) - all_E

    index_I = tl.arange(0, PAIRS)
    pair_I = begin_pair + index_I
    expert_I, is_here_I = _experts_of(choice, pair_I, pairs, first, experts)
    key_I = tl.where(is_here_I, expert_I, -1)
    key_J = tl.load(choice + begin_pair + index_I, mask=pair_I < pairs, other=-1).to(tl.int32) - first
    is_earlier_IJ = (key_I[:, None] == key_J[None, :]) & (index_I[None, :] < index_I[:, None])
    rank_I = tl.sum(is_earlier_IJ.to(tl.int32), axis=1)
    row_I = tl.gather(start_E + before_E, expert_I, axis=0) + rank_I
    tl.store(place + pair_I, tl.where(is_here_I, row_I, -1), mask=pair_I < pairs)
    tl.store(order + row_I, pair_I, mask=is_here_I)

    if begin_pair == 0:
        blocks_E = tl.cdiv(all_E, ROWS)
        entry_E = table + (1 + tl.cumsum(blocks_E, axis=0) - blocks_E) * ENTRY
        tl.store(table, tl.sum(blocks_E, axis=0))
        for block in range(tl.max(blocks_E, axis=0)):
            is_block_E = block < blocks_E
            tl.store(entry_E + block * ENTRY, expert_E, mask=is_block_E)
            tl.store(entry_E + block * ENTRY + 1, start_E + block * ROWS, mask=is_block_E)
            tl.store(entry_E + block * ENTRY + 2, start_E + all_E, mask=is_block_E)


def sort(choice: Tensor, first: int, experts: int, rows: int) -> Rows:
    """choice [tokens, top_k] int64 numbers all experts; `experts` from `first` on are here. rows: of a block."""
    pairs, device = choice.numel(), choice.device
    active = min(experts, pairs)
    make = {"dtype": torch.int32, "device": device}
    found = Rows(
        rows,
        torch.empty(pairs, **make),
        torch.empty(pairs, **make),
        torch.empty(1 + (pairs + active * (rows - 1)) // rows, ENTRY.value, **make),
    )
    dependent, wide, scanned = depends(device), next_power_of_2(experts), SCANNED[pairs > SCANNED[0]]
    lines, counts = 0, found.order
    if pairs > MANY:
        lines = cdiv(pairs, scanned)
        counts = torch.empty(lines, wide, **make)
        _count[(lines,)](
            choice, counts, pairs, first, experts,
            SCAN=scanned, EXPERTS=wide, DEPENDENT=dependent, launch_pdl=dependent, num_warps=8,
        )  # fmt: skip
    placed = PAIRS[lines > 0]
    _sort[(cdiv(pairs, placed),)](
        choice, counts, found.order, found.place, found.table, pairs, first, experts, lines,
        ROWS=rows, PAIRS=placed, SCAN=scanned, EXPERTS=wide, COUNTED=lines > 0, DEPENDENT=dependent,
        launch_pdl=dependent, num_warps=8 if lines else 4,
    )  # fmt: skip
    return found


@triton.jit
def _combine(
    rows, place, share, beside, out, hidden, beside_stride,
    TOP_K: tl.constexpr, COLUMNS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column_C = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column_C = column_C < hidden
    begin(DEPENDENT)
    sum_C = tl.zeros([COLUMNS], tl.float32)
    if beside is not None:
        sum_C += tl.load(beside + token * beside_stride + column_C, mask=is_column_C, other=0.0).to(tl.float32)
    for choice in tl.static_range(TOP_K):
        row = tl.load(place + token * TOP_K + choice)
        weight = tl.load(share + token * TOP_K + choice)
        row_C = tl.load(rows + row.to(tl.int64) * hidden + column_C, mask=is_column_C & (row >= 0), other=0.0)
        sum_C += weight * row_C.to(tl.float32)
    tl.store(out + token * hidden + column_C, sum_C.to(out.dtype.element_ty), mask=is_column_C)


def combine(rows: Tensor, place: Tensor, share: Tensor, beside: Tensor | None = None) -> Tensor:
    """beside [tokens, hidden], and each token's rows times their shares, in the order of its choices: their sum.

    rows [pairs, hidden]; place [pairs]; share [tokens, top_k] float32. A pair without a row adds zero.
    """
    assert beside is None or beside.stride(1) == 1, "a token's numbers lie in a run"
    (tokens, top_k), hidden = share.shape, rows.shape[1]
    out = torch.empty(tokens, hidden, dtype=rows.dtype, device=rows.device)
    dependent, columns = depends(rows.device), min(next_power_of_2(hidden), COLUMNS)
    _combine[(tokens, cdiv(hidden, columns))](
        rows, place, share, beside, out, hidden, 0 if beside is None else beside.stride(0),
        TOP_K=top_k, COLUMNS=columns, DEPENDENT=dependent, launch_pdl=dependent, num_warps=4,
    )  # fmt: skip
    return out
