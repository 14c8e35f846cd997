# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Joins what several programs have of a sequence's attention, in a kernel of its own.

Programs that share a long sequence are many, and so are those that join its parts: each takes some heads. Whoever
attends leaves, for each of the two sequences whose parts a program may have, sums of values [heads, dim], and the
largest scores and sums of shares [2, heads]: first of the sequence that an earlier program began, then of its own.
Where all sequences have as many tiles, and shares are short, a few programs less may end where sequences end, so that
there is nothing, or less, to join.

Suffixes: S sequences, J parts, D numbers of a value.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute.kernels.triton.attention_decode import _owner
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, next_power_of_2

PROGRAMS = 1024  # about so many
JOINED = 8  # parts that are read at once
FEWEST_SEQUENCES = 128  # that are compiled for
LEAST_EVEN = 0.94  # of all programs, and
EVEN_TILES = tl.constexpr(320)  # at most of each: else leaving programs out costs more than joining


def even_programs(pieces: int, programs: int) -> int:
    """How many of `programs` share pieces of one length so that ends of shares are ends of pieces, or all pieces are
    cut alike. `programs`, if that would leave too many out."""
    most = cdiv(pieces, programs)
    even = programs // pieces * pieces if most == 1 else pieces // most if pieces % most == 0 else 0
    return even if even >= LEAST_EVEN * programs else programs


@triton.jit(
    do_not_specialize=["sequences", "programs", "even", "least_tiles"], do_not_specialize_on_alignment=["lengths"]
)
def _join(
    parts, stats, out, lengths, sequences, blocks, programs, even, least_tiles, out_stride, out_head_stride,
    SEQUENCES: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
    JOINED: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Some heads of one block of a sequence, if several programs have parts of it."""
    sequence, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    index_S = tl.arange(0, SEQUENCES)
    length_S = tl.load(lengths + index_S, mask=index_S < sequences, other=0)
    tiles_S = tl.cdiv(length_S, TILE)
    tiles, own = tl.sum(tiles_S, axis=0), tl.sum(tl.where(index_S == sequence, tiles_S, 0), axis=0)
    units = tl.maximum(tiles * blocks, 1)
    are_even = (tiles == sequences * tl.max(tiles_S, axis=0)) & (units <= EVEN_TILES * even)
    programs = tl.where(are_even, even, programs)
    programs = tl.minimum(programs, tl.cdiv(units, least_tiles))
    first = block * tiles + tl.sum(tl.where(index_S < sequence, tiles_S, 0), axis=0)
    first_program = _owner(first, programs, units)
    last_program = _owner(first + own - 1, programs, units)
    begin(DEPENDENT)
    if (own > 0) & (last_program > first_program):
        splits, split = tl.num_programs(1), tl.program_id(1)
        index_J, column_D = tl.arange(0, JOINED), tl.arange(0, PADDED)
        is_column_D = column_D < DIM
        to = out + sequence.to(tl.int64) * out_stride + block * GROUP * out_head_stride
        for head in range(split * GROUP // splits, (split + 1) * GROUP // splits):
            largest, weight = float("-inf"), 0.0
            sum_D = tl.zeros([PADDED], tl.float32)
            for start in range(first_program, last_program + 1, JOINED):
                program_J = start + index_J
                is_part_J = program_J <= last_program
                # The program that began a sequence keeps it as its second part, the others as their first.
                part_J = program_J * 2 + (program_J == first_program).to(tl.int32)
                from_J = stats + part_J * (2 * GROUP) + head
                largest_J = tl.load(from_J, mask=is_part_J, other=float("-inf"))
                weight_J = tl.load(from_J + GROUP, mask=is_part_J, other=0.0)
                from_JD = parts + (part_J * GROUP + head)[:, None] * DIM + column_D[None, :]
                sum_JD = tl.load(from_JD, mask=is_part_J[:, None] & is_column_D[None, :], other=0.0)
                new = tl.maximum(largest, tl.max(largest_J, axis=0))
                scale_J, before = tl.exp2(largest_J - new), tl.exp2(largest - new)
                weight = weight * before + tl.sum(weight_J * scale_J, axis=0)
                sum_D = sum_D * before + tl.sum(sum_JD * scale_J[:, None], axis=0)
                largest = new
            mean_D = (sum_D / weight).to(out.dtype.element_ty)
            tl.store(to + head * out_head_stride + column_D, mean_D, mask=is_column_D)


def join(
    parts: Tensor,
    stats: Tensor,
    out: Tensor,
    lengths: Tensor,
    *,
    group: int,
    programs: int,
    tile: int,
    least_tiles: int,
) -> None:
    """Writes the output of sequences that more than one of `programs` attended to, in tiles of `tile` tokens.

    parts [programs, 2, group, dim], stats [programs, 2, 2, group] float32; out [sequences, heads, dim], in blocks of
    `group` heads. Program p of n had tiles p * tiles // n up to the next one's, of all sequences for the first block,
    then for the second and so on; n is `programs`, or even_programs of them where sequences are of one number of tiles,
    or as few as have `least_tiles` each.
    """
    sequences, heads, dim = out.shape
    blocks, dependent = heads // group, depends(out.device)
    splits = min(max(PROGRAMS // (sequences * blocks), 1), group)
    _join[(sequences * blocks, splits)](
        parts, stats, out, lengths, sequences, blocks, programs, even_programs(sequences * blocks, programs),
        least_tiles, out.stride(0), out.stride(1),
        SEQUENCES=max(next_power_of_2(sequences), FEWEST_SEQUENCES), GROUP=group, DIM=dim,
        PADDED=next_power_of_2(dim), TILE=tile, JOINED=JOINED, DEPENDENT=dependent, launch_pdl=dependent,
        num_warps=4,
    )  # fmt: skip


def room(programs: int, group: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Memory for parts and stats."""
    make = {"dtype": torch.float32, "device": device}
    return torch.empty(programs, 2, group, dim, **make), torch.empty(programs, 2, 2, group, **make)
