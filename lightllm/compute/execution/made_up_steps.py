"""Plans that nobody asked for: the largest that a configuration allows, whose memory is counted; and such that after
them every kernel that a step can need has been compiled."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lightllm.base.step import ROW, StepPlan
from lightllm.base.token_words import WORDS_OF_BIAS

CONTEXT_TOKENS = 1 << 17  # of several sequences; attention copies no more contexts than these at once, or a single one
# Everything that sampling can do at once. Nearly all of the probability is wanted, so all tokens are looked at.
_COSTLY = {
    "temperature": 1.0,
    "top_p": 0.999999,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "num_logprobs": 20,
    "min_tokens": 1 << 20,
    "typical_p": 0.999999,
    "num_biases": 1,
    "num_bias_words": WORDS_OF_BIAS,
    "num_ends": 1,
    "decay_factor": 1.1,
    "num_mask_words": 1,
    "num_first_mask_words": 1,
}
_GREEDY = {"top_p": 1.0, "repetition_penalty": 1.0, "num_logprobs": -1}
# Each way that sampling is computed, with and without filters, penalties, biases, masks and log-probabilities.
_WAYS: Sequence[Mapping[str, Any]] = (
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    {"repetition_penalty": 1.1},
    {"temperature": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"min_tokens": 1 << 20, "num_stops": 1},
    {"num_ends": 1, "decay_factor": 1.1},
    {"num_biases": 1, "num_bias_words": WORDS_OF_BIAS},
    {"num_mask_words": 1},
    {"temperature": 1.0, "typical_p": 0.5},
    {"temperature": 1.0, "num_logprobs": 0},
    {"num_logprobs": 5},
)
_WORD_COUNTS = ("num_bias_words", "num_ends", "num_mask_words", "num_first_mask_words")
# Kernels are compiled for numbers of sequences rounded up to powers of two, from these on.
_FEW_SEQUENCES = 16
# Tokens of a chunk: too few to be worth a copy of their context, enough, and more than a block of the largest kernels.
_CHUNKS = (2, 15, 64, 1024)
# Tokens of steps that mixtures of experts are compiled for besides.
_LARGE_STEPS = (2048, 4096)


def largest_steps(*, tokens: int, rows: int, longest: int) -> list[StepPlan]:
    """One sequence of as many tokens as may be; as many sequences as may be, which share `tokens` and all sample;
    the ends of contexts as long as may be; and the first again with all its tokens scored. Needs a pool of `tokens`
    slots, and lines of `longest` in the slot table."""
    most = min(max(tokens // rows, 1), longest)
    contexts = [min(longest, CONTEXT_TOKENS - start) for start in range(0, CONTEXT_TOKENS, longest)]
    contexts = contexts[: min(rows, tokens)] if longest < CONTEXT_TOKENS else [longest]
    chunks = [min(tokens // len(contexts), context) for context in contexts]
    starts = [context - chunk for context, chunk in zip(contexts, chunks, strict=True)]
    return [
        _step([0], [min(tokens, longest)], _COSTLY, slots=tokens),
        _step([0] * rows, [most] * rows, _COSTLY, slots=tokens),
        _step(starts, chunks, _COSTLY, slots=tokens),
        _scored(_step([0], [min(tokens, longest)], _COSTLY, slots=tokens)),
    ]


def every_kind_of_step(*, tokens: int, rows: int, longest: int, slots: int) -> Iterator[StepPlan]:
    """Few and many decodes beside a chunk, few and many chunks of each kind, each way of sampling in steps of either
    kind, contexts in runs of slots, prompts that are scored. The first begin rows that others continue, in order."""
    most_chunks = min(rows, tokens // 2)
    for chunk, chunks in itertools.product(_CHUNKS, _numbers_of_sequences(most_chunks)):
        # The longest one decides which kernel computes those beside it.
        others = min(chunk, (tokens - chunk) // max(chunks - 1, 1))
        if chunk <= longest and others > 1:
            yield _step([0] * chunks, [others] * (chunks - 1) + [chunk], _GREEDY, slots=slots)
    yield from _large_steps(tokens, rows, longest, slots)
    for decodes in _numbers_of_sequences(min(rows - 1, tokens - 2)):
        if longest > 3:
            yield _step([3] * decodes + [0], [1] * decodes + [2], _GREEDY, slots=slots)
    for chunk in _CHUNKS:
        if chunk <= min(tokens, longest):
            yield _in_a_run(_step([0], [chunk], _GREEDY, slots=slots))
            yield _scored(_step([0], [chunk], _GREEDY, slots=slots))
    for way, sequences in itertools.product(_WAYS, (1, 3)):
        if sequences <= most_chunks and longest > 3:
            yield _step([0] * sequences, [2] * sequences, {**_GREEDY, **way}, slots=slots)
            yield _decodes(sequences, 2, slots)


def _scored(plan: StepPlan) -> StepPlan:
    """The same with every token scored but the last one."""
    plan.scored = np.arange(len(plan.tokens) - 1, dtype=np.int32)
    plan.successors, plan.num_score_logprobs = plan.tokens[1:], 20
    return plan


def _large_steps(tokens: int, rows: int, longest: int, slots: int) -> Iterator[StepPlan]:
    for count in _LARGE_STEPS:
        sequences = -(-count // longest)
        if count <= tokens and sequences <= rows:
            yield _step([0] * sequences, [count // sequences] * sequences, _GREEDY, slots=slots)


def _numbers_of_sequences(most: int) -> list[int]:
    """The smallest number that rounds up to each power of two, up to `most`: fewer leave longer chunks possible."""
    return [1, *itertools.takewhile(lambda n: n <= most, ((_FEW_SEQUENCES << i) + 1 for i in itertools.count()))]


def _decodes(sequences: int, start: int, slots: int) -> StepPlan:
    """A step that graphs can take: rows 0 ... sequences - 1 run one more token."""
    ones, starts = np.ones(sequences, np.int32), np.full(sequences, start, np.int32)
    rows = np.arange(sequences, dtype=np.int32)
    return _plan(rows, starts, ones, starts, rows % slots, np.zeros(0, ROW))


def _step(starts: Sequence[int], counts: Sequence[int], parameters: Mapping[str, Any], *, slots: int) -> StepPlan:
    """Rows 0, 1, ... begin and run `counts` tokens from `starts` on, after prefixes found in the tree. All sample."""
    order = sorted(range(len(counts)), key=lambda i: counts[i] > 1)
    first, count = (np.array([values[i] for i in order], np.int32) for values in (starts, counts))
    rows, begins = np.arange(len(count), dtype=np.int32), np.zeros(len(count), ROW)
    begins["row"] = rows
    begins["prompt_length"] = first + count
    for name, value in parameters.items():
        begins[name] = value
    lengths = first + count
    # From the last slot down, so that contexts do not lie in runs: that needs more memory and kernels.
    update_slots = slots - 1 - np.arange(lengths.sum()) % slots
    return _plan(rows, first, count, np.zeros_like(first), update_slots, begins)


def _in_a_run(plan: StepPlan) -> StepPlan:
    """The same with slots from the first one up."""
    plan.update_slots = np.arange(len(plan.update_slots), dtype=np.int32)
    return plan


def _plan(
    rows: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    told: np.ndarray,
    update_slots: np.ndarray,
    begins: np.ndarray,
) -> StepPlan:
    """told: from which position on the slots of a row are new."""
    words = sum(int(begins[name].sum()) for name in _WORD_COUNTS)
    return StepPlan(
        step=0,
        rows=rows,
        starts=starts,
        counts=counts,
        samples=np.ones(len(rows), bool),
        tokens=np.zeros(counts.sum(), np.int32),
        update_rows=rows,
        update_starts=told,
        update_counts=starts + counts - told,
        update_slots=update_slots.astype(np.int32),
        begins=begins,
        stop_tokens=np.zeros(begins["num_stops"].sum(), np.int32),
        words=np.zeros(words, np.int32),  # of biases: nothing is added to token 0
    )
