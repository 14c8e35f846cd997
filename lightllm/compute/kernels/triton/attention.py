"""Attention over the slot table: decodes by one of two kernels, chunks by one of two others."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.triton import attention_decode, attention_decode_hopper
from lightllm.compute.kernels.triton.attention_prefill import attend_chunks
from lightllm.compute.kernels.triton.attention_prefill_hopper import attend_runs, attend_runs_of, why_not_runs
from lightllm.compute.kernels.triton.launch import is_hopper, why_not
from lightllm.compute.ops.attention import IN_RUNS, Sequences

# Query heads of a key head, times tokens: with fewer, the context may not be worth copying. 64 such rows on 8,192
# tokens took 122 us with copying and 245 by slots.
FEWEST_ROWS = 64
MOST_COPIED = 1 << 17  # tokens of contexts copied at once; a longer context is copied alone


@ops.attend.implementation("triton", why_not)
def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    sequences: Sequences,
    scale: float,
    window: int | None,
) -> Tensor:
    assert q.stride(2) == keys.stride(2) == values.stride(2) == 1, "a head lies in a run"
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    slot_table, row, lengths = sequences.slot_table, sequences.row, sequences.lengths
    decodes, memo = sequences.decodes, sequences.memo
    on_hopper = is_hopper(q.device)
    if decodes:
        streams = on_hopper and attention_decode_hopper.why_not(q, keys, values) is None
        module = attention_decode_hopper if streams else attention_decode
        where = (slot_table, row[:decodes], lengths[:decodes])
        more = {"memo": memo} if streams else {}
        module.attend_decodes(q[:decodes], keys, values, *where, scale, window, out[:decodes], **more)
    fewest = FEWEST_ROWS * keys.shape[1] // q.shape[1]
    copies = on_hopper and why_not_runs(q, keys) is None
    for lot, contexts in lots(sequences, fewest if copies else None, MOST_COPIED):
        which = slice(decodes + lot.start, decodes + lot.stop)
        where = (row[which], sequences.query_start[which.start : which.stop + 1], lengths[which])
        how = (scale, window, sequences.query_lengths[lot])
        if contexts is None:
            attend_chunks(q, keys, values, slot_table, *where, *how, out)
        elif IN_RUNS in memo:
            key = (IN_RUNS, lot.start)
            if key not in memo:
                memo[key] = slot_table[row[which], 0]
            pools = keys.view(len(keys), -1), values.view(len(values), -1)
            attend_runs_of(q, *pools, *where[1:], *how, out, firsts=memo[key])
        else:
            attend_runs(q, keys, values, slot_table, *where, *how, contexts, out)
    return out


def lots(sequences: Sequences, fewest: int | None, most_copied: int) -> Iterator[tuple[slice, Sequence[int] | None]]:
    """Neighbouring chunks that are computed together, and their contexts if these are copied.

    They are if their lengths are known and each chunk has at least `fewest` tokens; together at most `most_copied`, but
    for a single one.
    """
    query_lengths, context_lengths = sequences.query_lengths, sequences.context_lengths
    if context_lengths is None:
        if query_lengths:
            yield slice(0, len(query_lengths)), None
        return
    start, was_long, copied = 0, False, 0
    for i, (count, length) in enumerate(zip(query_lengths, context_lengths, strict=True)):
        is_long = fewest is not None and count >= fewest
        if i > start and (is_long != was_long or (is_long and copied + length > most_copied)):
            yield slice(start, i), context_lengths[start:i] if was_long else None
            start, copied = i, 0
        was_long, copied = is_long, copied + length
    if start < len(query_lengths):
        yield slice(start, len(query_lengths)), context_lengths[start:] if was_long else None
