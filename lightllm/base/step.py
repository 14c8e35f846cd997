"""What the scheduler asks the workers to compute in one step, and what comes back. Plain arrays: no torch.

A request that runs has a `row`: an index into everything the workers keep for it (its line of the slot table, its
sampling parameters, its last sampled token). A plan holds all that workers need, so that it can travel to any machine.
Prefill, chunks of prefill, decode and verification of drafts differ only in how many tokens a sequence runs.
"""

import struct
from dataclasses import dataclass, field, fields

import msgspec
import numpy as np

FAILED = -2  # in results: no token was sampled, because what the row's grammar allows was not known, or was nothing
LAST_SAMPLED = -1  # in `tokens`: the token that this row sampled last, which only the workers know

# Sampling parameters of a row, as the request table has them.
ROW = np.dtype(
    [
        ("row", np.int32),
        ("index", np.int32),  # of the request's record
        ("generation", np.uint32),
        ("has_grammar", np.bool_),
        ("num_output", np.int32),  # tokens generated before the row begins, after preemption
        ("prompt_length", np.int32),  # without input_penalty, penalties count the tokens after these
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("top_k", np.int32),  # 0: off
        ("min_p", np.float32),
        ("typical_p", np.float32),  # 1: off
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("input_penalty", np.bool_),
        ("decay_start", np.int32),
        ("decay_factor", np.float32),  # 1: off
        ("seed", np.uint64),
        ("num_logprobs", np.int32),  # -1: none wanted
        ("min_tokens", np.int32),
        ("num_stops", np.int32),  # how many of the next tokens in `stop_tokens` are this row's
        # How many of the next words in `words` are this row's, in this order: see base/token_words.py.
        ("num_bias_words", np.int32),
        ("num_ends", np.int32),
        ("num_mask_words", np.int32),
        ("num_first_mask_words", np.int32),
        ("num_biases", np.int32),  # described by its bias words
    ],
    align=True,
)


def _empty(dtype: type, *shape: int) -> np.ndarray:
    return field(default_factory=lambda: np.zeros(shape or (0,), dtype))


@dataclass(slots=True)
class StepPlan:
    """S sequences, T tokens laid end to end; sequences of one token come first."""

    step: int
    rows: np.ndarray  # [S] int32
    starts: np.ndarray  # [S] int32: position of each sequence's first token
    counts: np.ndarray  # [S] int32: tokens it runs
    samples: np.ndarray  # [S] bool: whether a token is sampled after its last token
    tokens: np.ndarray  # [T] int32, LAST_SAMPLED where the workers know better
    # Changes of the slot table, made before anything else: this step's tokens and prefixes found in the tree.
    # slot_table[update_rows[i], update_starts[i] : + update_counts[i]] = the next update_counts[i] of update_slots
    update_rows: np.ndarray  # [U] int32
    update_starts: np.ndarray  # [U] int32
    update_counts: np.ndarray  # [U] int32
    update_slots: np.ndarray  # [sum of update_counts] int32
    # Rows that begin (or begin again after preemption) with this step.
    begins: np.ndarray  # [B] of ROW
    stop_tokens: np.ndarray  # [sum of num_stops] int32: tokens not to be sampled before min_tokens
    words: np.ndarray = _empty(np.int32)  # [sum of the rows' words] int32
    # Prompt tokens that the model is asked about: how likely was it that `successors` would follow them?
    scored: np.ndarray = _empty(np.int32)  # [N] int32: places in `tokens`, ascending
    successors: np.ndarray = _empty(np.int32)  # [N] int32
    num_score_logprobs: int = 0  # so many of the likeliest tokens are wanted beside each


@dataclass(slots=True)
class StepResult:
    """What the sequences of a plan sampled, in the plan's order."""

    step: int
    tokens: np.ndarray  # [S] int32; -1 where nothing was sampled
    # K is the largest num_logprobs of the rows that sampled; logprobs are of the raw logits.
    logprobs: np.ndarray  # [S] float32, or [0] if no row wants any
    top_tokens: np.ndarray  # [S, K] int32, likeliest first, or [0, 0]
    top_logprobs: np.ndarray  # [S, K] float32, or [0, 0]
    seconds: float  # from the plan's first use to its tokens
    next_was_ready: bool  # whether the plan after this one had arrived when this one ended
    # Of the plan's successors; K is its num_score_logprobs
    scores: np.ndarray = _empty(np.float32)  # [N] float32
    score_top_tokens: np.ndarray = _empty(np.int32, 0, 0)  # [N, K] int32, likeliest first
    score_top_logprobs: np.ndarray = _empty(np.float32, 0, 0)  # [N, K] float32
    vectors: np.ndarray = _empty(np.float32, 0, 0)  # [S, width] float32, of a model that does not generate


_NAMES = {kind: [each.name for each in fields(kind)] for kind in (StepPlan, StepResult)}
_DTYPES = [*map(np.dtype, (np.int32, np.float32, np.bool_)), ROW]
_LENGTH = struct.Struct("q")  # bytes of the description that follows it
_DESCRIBED = 64  # bytes at most of a field: its value, or an array's type and shape
_ALIGN = 64
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


def pack(message: StepPlan | StepResult, buffer: np.ndarray) -> int:
    """Writes a plan or result into `buffer` [bytes] uint8, returns its length. Raises ValueError without room."""
    names, described = _NAMES[type(message)], []
    parts: list[memoryview | bytes] = []
    for name in names:
        value = getattr(message, name)
        if isinstance(value, np.ndarray):
            described.append((_DTYPES.index(value.dtype), value.shape))
            parts += np.ascontiguousarray(value).data, bytes(-value.nbytes % _ALIGN)
        else:
            described.append(value)
    data, start = b"".join(parts), _first_array(names)
    end = start + len(data)
    if end > len(buffer):
        raise ValueError(f"a {type(message).__name__} of {end} bytes, room for {len(buffer)}")
    description, view = _encode((end, described)), buffer.data
    _LENGTH.pack_into(view, 0, len(description))
    view[_LENGTH.size : _LENGTH.size + len(description)] = description
    view[start:end] = data
    return end


def unpack(kind: type, buffer: np.ndarray):
    """Reads what `pack` wrote. The arrays lie in one copy."""
    (length,) = _LENGTH.unpack_from(buffer.data)
    end, described = _decode(buffer.data[_LENGTH.size : _LENGTH.size + length])
    at, values, copy = _first_array(_NAMES[kind]), [], buffer[:end].copy()
    for value in described:
        if isinstance(value, list):
            code, shape = value
            value = np.ndarray(shape, _DTYPES[code], copy, at)
            at = _round_up(at + value.nbytes)
        values.append(value)
    return kind(*values)


def _first_array(names: list[str]) -> int:
    return _round_up(_LENGTH.size + _DESCRIBED * len(names))


def _round_up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
