"""A worker without a model: it samples the eos token where a trace says that a request's output ends.

It knows a request by its seed, which is the request's number in the trace, so a plan alone tells it everything.
"""

import numpy as np

from lightllm.base.step import StepPlan, StepResult
from lightllm.simulation.trace import Trace

TOKEN, EOS = 0, 1

_NO_LOGPROBS = np.empty(0, dtype=np.float32)
_NO_TOP_TOKENS = np.empty((0, 0), dtype=np.int32)
_NO_TOP_LOGPROBS = np.empty((0, 0), dtype=np.float32)


class PretendedWorker:
    """Runs plans in their order."""

    def __init__(self, trace: Trace, *, rows: int):
        self._length_at_end = trace.prompt + trace.output - 1  # tokens that have run when the eos token is sampled
        self._ends_at = np.zeros(rows, dtype=np.int64)  # the same, by row

    def run(self, plan: StepPlan) -> StepResult:
        self._ends_at[plan.begins["row"]] = self._length_at_end[plan.begins["seed"].astype(np.int64)]
        lengths = plan.starts + plan.counts
        tokens = np.where(lengths >= self._ends_at[plan.rows], np.int32(EOS), np.int32(TOKEN))
        tokens[~plan.samples] = -1
        return StepResult(
            plan.step, tokens, _NO_LOGPROBS, _NO_TOP_TOKENS, _NO_TOP_LOGPROBS, seconds=0.0, next_was_ready=True
        )

    def remaining(self, plan: StepPlan) -> tuple[np.ndarray, np.ndarray]:
        """Of the plan's sequences, once it has run: slots held, and slots still to be taken until their true end."""
        held = (plan.starts + plan.counts).astype(np.int64)
        return held, np.maximum(self._ends_at[plan.rows] - held, 0)
