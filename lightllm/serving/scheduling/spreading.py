"""When prompts run in small steps beside requests that decode, so that all requests together end sooner.

A step of few tokens waits for the weights to be read, one of thousands for the matrix units. One of some hundred keeps
both busy, so prompts cost least spread over steps that are needed anyway. Who begins later ends later, though. Whether
that makes the last end later is known only where it is known how long every answer will be.
"""

import numpy as np

from lightllm.serving.scheduling.peak_memory import Counts
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.rows import Rows
from lightllm.serving.scheduling.waiting import Waiting

# By far less than small steps gain. Without it nobody could be spread whose answer ends when the last one does.
_MOST_STEPS = 1.01


def is_better(rows: Rows, waiting: Waiting, limits: StepLimits) -> bool:
    """Whether the next step is to be a small one: prompts have tokens to run, and how long all answers will be is
    known and such that no more steps are needed than if prompts went first."""
    if not limits.small_tokens:
        return False
    decoding, prefilling = rows.decoding(), rows.prefilling()
    if not len(decoding) or not (len(prefilling) or len(waiting)):
        return False
    if (rows.can_stop | rows.is_beam)[rows.takes_part].any() or any(each.can_stop or each.beams for each in waiting):
        return False
    remaining = rows.limit - rows.length  # tokens that each row has to run
    next_ones = sorted(waiting, key=lambda request: request.order)[: rows.num_free]
    prompts = [*(rows.goal - rows.length)[prefilling], *(each.prompt_length for each in next_ones)]
    outputs = [*(rows.limit - rows.goal)[prefilling] + 1, *(each.max_tokens for each in next_ones)]
    return ends_in_time(
        np.array(prompts),
        np.array(outputs),
        decodes=len(decoding),
        longest=int(remaining[decoding].max()),
        limits=limits,
    )


def ends_in_time(prompts: Counts, outputs: Counts, *, decodes: int, longest: int, limits: StepLimits) -> bool:
    """Whether requests that have prompts [n] to run and outputs [n] to generate, first come first served, end in as few
    small steps as if all prompts went first in large ones.

    Beside them `decodes` others run, the last of which ends after `longest` steps.
    """
    if not len(prompts):
        return False
    room = limits.small_tokens - decodes - np.arange(len(prompts))
    if room[-1] < limits.least_room:
        return False
    small = max(longest, float((np.cumsum(prompts / room) + outputs).max()))
    large = prompts.sum() / limits.tokens + max(longest, int(outputs.max()))
    return small <= _MOST_STEPS * large
