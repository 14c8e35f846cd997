import random

import numpy as np

from lightllm.serving.scheduling.peak_memory import peak_tokens


def simulated(requests: list[tuple[int, int]]) -> int:
    """Most slots in use at any step, each request giving all of its slots back after its last one."""
    return max(sum(held + step for held, remaining in requests if remaining >= step) for step in range(31))


def test_peak_equals_step_by_step_simulation():
    draw = random.Random(0)
    for _ in range(500):
        requests = [(draw.randint(0, 50), draw.randint(0, 30)) for _ in range(draw.randint(1, 12))]
        assert peak_tokens(*np.array(requests).T) == simulated(requests)


def test_nothing_needs_nothing():
    assert peak_tokens(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)) == 0
