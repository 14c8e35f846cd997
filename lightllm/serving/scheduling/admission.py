"""Which requests may run together: one question, `why_not`, and two policies that answer it.

`conservative` admits while the predicted peak fits the pool. With the maximum lengths that requests state it is never
exceeded; where they state none, lengths are estimated. `watermark` looks only at what is needed now. Where a
prediction was too low, the latest request is preempted (preemption.py).

A request alone on the server is admissible, under either policy, exactly if `why_not_alone` says nothing against it.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.peak_memory import peak_tokens
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running

Counts = NDArray[np.int64]


class Policy(Protocol):
    """The seam: another way to decide is another class."""

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        """Slots that must be there so that the requests in `running` may run together.

        All of them but the row `candidate` have been given their tokens of the step that is being planned; it is to
        run `next_tokens`.
        """
        ...

    @property
    def allowed(self) -> int:
        """Up to how many."""
        ...


class Conservative:
    """Admits while the predicted peak fits the pool."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int, limits: StepLimits):
        self.allowed, self._limits, self._expected = pool_tokens, limits, config.router_max_new_token_len

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        rows, taking_part = running.rows, running.rows.taking_part()
        length, goal = rows.length[taking_part] + next_tokens * (taking_part == candidate), rows.goal[taking_part]
        pending = np.maximum(goal - length, 0)
        growth = np.maximum(self._expected_end(running, taking_part) - np.maximum(length, goal), 0)
        quickest, slowest = prefill_steps(pending, self._limits)
        shared = running.pool.tree.attribute(rows.node[taking_part], slowest + growth)
        held = length - rows.in_tree[taking_part] + shared
        return predicted_peak(held, pending, growth, quickest, slowest)

    def _expected_end(self, running: Running, taking_part: np.ndarray) -> Counts:
        """Slots of each request at its end. One that states no maximum is expected to go on for a while."""
        rows = running.rows
        prompt, produced = rows.prompt_length[taking_part], rows.length[taking_part] - rows.prompt_length[taking_part]
        expected = np.maximum(np.ceil(1.1 * produced).astype(np.int64), self._expected)
        expected = np.where(rows.max_tokens_given[taking_part], rows.limit[taking_part], prompt + expected - 1)
        return np.minimum(expected, rows.limit[taking_part])


class Watermark:
    """Admits while what is used and what known tokens still need is within a share of the pool."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int):
        self.allowed = int(config.watermark * pool_tokens)

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        rows, prefilling = running.rows, running.rows.prefilling()
        return running.pool.num_used + int((rows.goal[prefilling] - rows.length[prefilling]).sum())


def policy(config: EngineConfig, *, pool_tokens: int, limits: StepLimits) -> Policy:
    if config.admission == "watermark":
        return Watermark(config, pool_tokens=pool_tokens)
    return Conservative(config, pool_tokens=pool_tokens, limits=limits)


def prefill_steps(pending: Counts, limits: StepLimits) -> tuple[Counts, Counts]:
    """Steps in which requests run their pending tokens, `pending` [n] in order of arrival: at least, at most.

    At worst all others decode. Of the tokens that a step has left a request gets a full chunk, unless older ones use
    them up, which they can do only as often as their tokens last.
    """
    left = max(1, limits.tokens - len(pending) + 1)
    chunk = min(limits.chunk, left)
    total = np.cumsum(pending)
    is_late = (pending > 0) & (total - pending + chunk > left)
    return -(-pending // limits.chunk), -(-pending // chunk) + np.where(is_late, total // left, 0)


def predicted_peak(held: Counts, pending: Counts, growth: Counts, quickest: Counts, slowest: Counts) -> int:
    """Slots needed at most, if each of n requests runs its `pending` tokens, then takes `growth` slots, one a step.

    A step of prefill runs at least one token, so what a request holds t steps from now is at most
    held + pending - quickest + t. It lives for slowest + growth steps and one more, until its last result is read,
    in which all but the last of the requests to end may grow once more.
    """
    return max(0, peak_tokens(held + pending - quickest, slowest + growth + 1) - 1)


def why_not_alone(prompt_tokens: int, max_tokens: int, *, pool_tokens: int, max_length: int) -> str | None:
    """Why a request can never run, not even alone on the server; None if it can. The last token needs no slot."""
    if prompt_tokens < 1:
        return "the prompt is empty; give at least one token"
    held, pending, growth, steps = np.array([[0], [prompt_tokens], [max_tokens - 1], [1]], dtype=np.int64)
    if (needed := predicted_peak(held, pending, growth, steps, steps)) > pool_tokens:
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens} need {needed} slots of the KV pool, which has "
            f"{pool_tokens}; shorten the prompt, lower max_tokens, or start the server with a larger "
            "--max_total_token_num or --mem_fraction"
        )
    if prompt_tokens + max_tokens > max_length:
        return (
            f"{prompt_tokens} prompt tokens and max_tokens={max_tokens} make {prompt_tokens + max_tokens} tokens, at "
            f"most {max_length} are allowed; shorten the prompt, lower max_tokens, or start the server with a larger "
            "--max_req_total_len"
        )
    return None


def longest_admissible(prompt_tokens: int, *, pool_tokens: int, max_length: int) -> int:
    """The largest max_tokens that `why_not_alone` accepts; less than 1 if it accepts none."""
    return min(max_length, pool_tokens + 1) - prompt_tokens
