import logging

import pytest

from lightllm.base.metrics import Metrics
from lightllm.serving.scheduling.statistics import Statistics


def test_a_line_shows_what_happened_since_the_last_one(caplog: pytest.LogCaptureFixture):
    memory, now = Metrics.create(1), [100.0]
    metrics = Metrics(memory, 0)
    memory.close()
    statistics = Statistics(metrics, 10.0, clock=lambda: now[0])
    metrics.set("kv_slots_total", 1000)
    metrics.set("kv_slots_used", 250)
    metrics.add("prompt_tokens", 200)
    metrics.add("prompt_tokens_cached", 50)
    metrics.add("generated_tokens", 300)
    with caplog.at_level(logging.INFO, logger="lightllm"):
        now[0] = 109.9
        statistics.show()
        assert not caplog.messages
        now[0] = 110.0
        statistics.show()
        now[0] = 130.0
        statistics.show()
    (line,) = caplog.messages
    for part in ("30.0 tokens/s generated", "20.0 tokens/s of prompts", "25 % of them cached", "KV pool 25 % used"):
        assert part in line
