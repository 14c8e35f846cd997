# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Attention over keys and values of fewer bits: as in attention.py, by kernels that read them as they are stored.

Contexts that are copied to a run are dequantized on the way, once a layer and chunk; then chunks are computed as those
of other pools are. Suffixes: S sequences, T tokens, C what a head of a token is stored in, D its numbers.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import attention_decode, attention_decode_quantized
from lightllm.compute.kernels.triton.attention import FEWEST_ROWS, MOST_COPIED, lots
from lightllm.compute.kernels.triton.attention_prefill import attend_chunks
from lightllm.compute.kernels.triton.attention_prefill_hopper import attend_runs_of, slots_of, why_not_runs
from lightllm.compute.kernels.triton.kv_formats import numbers
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, is_hopper, next_power_of_2, why_not
from lightllm.compute.ops.attention import Sequences

GATHERED = 4096  # numbers of a program


@triton.jit(do_not_specialize=["sequences", "tokens"], do_not_specialize_on_alignment=["row", "lengths"])
def _gather(
    pool, scale, run, slot_table, row, lengths, sequences, tokens, stride, head_stride, scale_stride, table_stride,
    run_stride,
    SEQUENCES: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr, TOKENS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Some tokens of one head: what their slots stand for, next to one another, as run [tokens, heads * numbers]."""
    begin(DEPENDENT)
    token_T, is_token_T, slot_T = slots_of(slot_table, row, lengths, sequences, tokens, table_stride, SEQUENCES, TOKENS)
    head = tl.program_id(1)
    place_C, column_D = tl.arange(0, PADDED // PACKED), tl.arange(0, PADDED)
    from_TC = pool + slot_T[:, None] * stride + (head * head_stride + place_C)[None, :]
    stored_TC = tl.load(from_TC, mask=is_token_T[:, None] & (place_C < WIDTH)[None, :], other=0.0)
    scale_T = tl.load(scale + slot_T * scale_stride + head, mask=is_token_T, other=0.0)
    number_TD = numbers(stored_TC, PACKED, tl.float32) * scale_T[:, None]
    to_TD = run + token_T.to(tl.int64)[:, None] * run_stride + (head * WIDTH * PACKED + column_D)[None, :]
    tl.store(to_TD, number_TD.to(run.dtype.element_ty), mask=is_token_T[:, None] & (column_D < WIDTH * PACKED)[None, :])


def run_of(
    pool: Tensor,
    scale: Tensor,
    packed: int,
    slot_table: Tensor,
    row: Tensor,
    lengths: Tensor,
    contexts: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """What the pool [slots, heads, numbers / packed] stands for in the contexts of these sequences, end to end.

    scale [slots, heads]; contexts: what `lengths` are. Returns [tokens, heads * numbers].
    """
    heads, width = pool.shape[1:]
    tokens, padded, dependent = sum(contexts), next_power_of_2(width * packed), depends(pool.device)
    run = torch.empty(tokens, heads * width * packed, dtype=dtype, device=pool.device)
    block = max(GATHERED // padded, 1)
    _gather[(cdiv(tokens, block), heads)](
        pool, scale, run, slot_table, row, lengths, len(contexts), tokens, pool.stride(0), pool.stride(1),
        scale.stride(0), slot_table.stride(0), run.stride(0),
        SEQUENCES=max(next_power_of_2(len(contexts)), 16), WIDTH=width, PADDED=padded, PACKED=packed,
        TOKENS=block, DEPENDENT=dependent, launch_pdl=dependent,
    )  # fmt: skip
    return run


@ops.attend_quantized.implementation("triton", why_not)
def attend_quantized(
    q: Tensor,
    keys: Tensor,
    key_scale: Tensor,
    values: Tensor,
    value_scale: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    assert q.stride(2) == keys.stride(2) == values.stride(2) == 1, "a head lies in a run"
    assert key_scale.stride() == value_scale.stride(), "scales of keys and values lie alike"
    assert key_scale.stride(1) == 1, "scales of a token lie in a run"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    packed = q.shape[2] // keys.shape[2]
    scales = key_scale, value_scale
    slot_table, row, lengths, decodes = sequences.slot_table, sequences.row, sequences.lengths, sequences.decodes
    on_hopper = is_hopper(q.device)
    if decodes:
        streams = on_hopper and attention_decode_quantized.why_not(q, keys, values) is None
        module = attention_decode_quantized if streams else attention_decode
        where = (slot_table, row[:decodes], lengths[:decodes])
        module.attend_decodes(q[:decodes], keys, values, *where, scale, window, out[:decodes], scales=scales)
    fewest = FEWEST_ROWS * keys.shape[1] // q.shape[1]
    copies = on_hopper and why_not_runs(q, q.new_empty(0, keys.shape[1], q.shape[2])) is None
    for lot, contexts in lots(sequences, fewest if copies else None, MOST_COPIED):
        which = slice(decodes + lot.start, decodes + lot.stop)
        starts, lengths_here = sequences.query_start[which.start : which.stop + 1], lengths[which]
        counts = sequences.query_lengths[lot]
        if contexts is not None:
            held = slot_table, row[which], lengths_here, contexts, q.dtype
            runs = (run_of(*pool, packed, *held) for pool in ((keys, key_scale), (values, value_scale)))
            attend_runs_of(q, *runs, starts, lengths_here, scale, window, counts, out)
        else:
            where = (slot_table, row[which], starts, lengths_here)
            attend_chunks(q, keys, values, *where, scale, window, counts, out, scales=scales)
    return out
