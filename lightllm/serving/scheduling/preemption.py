"""Who gives way when the pool has no room for the next step.

The latest arrival does, so the oldest request always goes on and in the end everyone does. What it has computed stays
in the prefix tree until the slots are needed, and it waits at the front of the queue to go on exactly where it was.
"""

from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


def slots_needed(running: Running, limits: StepLimits) -> int:
    """Slots that the next step takes at most, if it runs all requests that run now."""
    decodes = len(running.rows.decoding())
    prefilling = running.rows.prefilling()
    if not len(prefilling):
        return decodes
    # First, since what is found need not be taken, and can no longer be evicted for what is.
    for row in prefilling:
        running.find_more(int(row))
    return decodes + int(running.next_chunks(prefilling, limits.tokens - decodes).sum())


def victim(running: Running, limits: StepLimits) -> int | None:
    """The row that has to give way before the next step can be planned, or None. A lone request always fits."""
    if slots_needed(running, limits) <= running.pool.num_available:
        return None
    latest = running.rows.taking_part()
    return int(latest[-1]) if len(latest) > 1 else None
