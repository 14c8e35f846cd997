"""Admits while what is used and what known tokens still need is within a share of the pool."""

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.running import Running


class Watermark:
    """Does not look ahead: outputs grow into what is left of the pool, and when that is full requests give way."""

    def __init__(self, config: EngineConfig, *, pool_tokens: int):
        self.allowed = int(config.watermark * pool_tokens)

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        rows, prefilling = running.rows, running.rows.prefilling()
        return running.pool.num_used + int((rows.goal[prefilling] - rows.length[prefilling]).sum())

    def note_preemption(self) -> None: ...

    def note_end(self) -> None: ...
