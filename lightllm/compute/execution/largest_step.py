"""Plans for the largest steps that a configuration allows, to be run once so that their memory can be counted."""

import numpy as np

from lightllm.base.step import ROW, StepPlan

# Everything that sampling can do at once. Nearly all of the probability is wanted, so all tokens are looked at.
_COSTLY = {
    "prompt_length": 1,
    "temperature": 1.0,
    "top_p": 0.999999,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "num_logprobs": 20,
    "min_tokens": 1 << 20,
}


def largest_steps(*, tokens: int, rows: int, longest: int) -> list[StepPlan]:
    """One sequence of as many tokens as may be; and as many sequences as may be, which share `tokens` and all sample.

    Needs a pool of `tokens` slots.
    """
    return [_plan(np.array([min(tokens, longest)])), _plan(np.full(rows, min(max(tokens // rows, 1), longest)))]


def _plan(counts: np.ndarray) -> StepPlan:
    counts, begins = counts.astype(np.int32), np.zeros(len(counts), ROW)
    begins["row"] = rows = np.arange(len(counts), dtype=np.int32)
    for name, value in _COSTLY.items():
        begins[name] = value
    slots, none = np.arange(counts.sum(), dtype=np.int32), np.zeros(len(counts), np.int32)
    return StepPlan(
        step=0,
        rows=rows,
        starts=none,
        counts=counts,
        samples=np.ones(len(counts), bool),
        tokens=np.zeros(len(slots), np.int32),
        update_rows=rows,
        update_starts=none,
        update_counts=counts,
        update_slots=slots,
        begins=begins,
        stop_tokens=np.zeros(0, np.int32),
    )
