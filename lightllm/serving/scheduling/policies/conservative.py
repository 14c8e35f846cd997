"""Admits while everything fits even if every request runs to the maximum it has stated."""

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.running import Running


class Conservative:
    """With stated maxima the pool is never exceeded. Of a request that states none some length is expected."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int, limits: StepLimits):
        self.allowed, self._limits, self._expected = pool_tokens, limits, config.router_max_new_token_len

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        holdings = Holdings.of(running, self._limits, candidate=candidate, next_tokens=next_tokens)
        rows, taking_part = running.rows, holdings.rows
        produced = rows.length[taking_part] - rows.prompt_length[taking_part]
        # One that has nearly reached what was expected is expected to go on for a while.
        expected = np.maximum(np.ceil(1.1 * produced).astype(np.int64), self._expected)
        stated = rows.max_tokens[taking_part]
        output = np.where(rows.max_tokens_given[taking_part], stated, np.minimum(expected, stated))
        return int(holdings.peaks(holdings.growth(rows, output)[None])[0])

    def note_preemption(self) -> None: ...

    def note_end(self) -> None: ...
