"""What admission by prediction does to whole runs."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.forecast import Quantiles
from lightllm.serving.scheduling.holdings import Holdings
from lightllm.serving.scheduling.policies.past_future import PastFuture
from tests.serving.scheduling.device import alone
from tests.serving.scheduling.engine import Asked, Engine


def test_a_request_has_the_same_numbers_whenever_and_in_whatever_row_it_asks():
    quantiles = Quantiles(8, 64)
    first = quantiles.of(np.array([2, 5]), np.array([17, 40]))
    assert not np.array_equal(first[:, 0], first[:, 1])
    again = quantiles.of(np.array([2, 3, 7]), np.array([99, 40, 17]))
    assert np.array_equal(again[:, 1], first[:, 1])
    assert np.array_equal(again[:, 2], first[:, 0])
    assert np.array_equal(np.sort((first * 64).astype(int), axis=0)[:, 0], np.arange(64)), "each part of [0, 1) once"


def test_preemptions_raise_the_share_of_peaks_that_has_to_fit_and_ends_lower_it(monkeypatch):
    monkeypatch.setattr(Holdings, "of", lambda *_, **__: None)
    peaks = SimpleNamespace(peaks=lambda *_: np.random.default_rng(0).permutation(100) + 1)
    config = EngineConfig(prediction_samples=100, prediction_quantile=0.98, preemption_target=0.01)
    policy = PastFuture(config, pool_tokens=100, limits=Any, forecast=peaks)

    def needed() -> int:
        return policy.needed(Any, 0, 0)

    assert needed() == 98
    policy.note_preemption()
    assert needed() == 100
    policy.note_preemption()
    assert needed() == 100, "there is nothing above"
    for _ in range(101):  # as there may be with one preemption, and one
        policy.note_end()
    assert needed() == 98
    for _ in range(2000):
        policy.note_end()
    assert needed() == 90
    for _ in range(5):
        policy.note_preemption()
    assert needed() == 100


def serve(admission: str, *, number: int) -> tuple[Engine, list[Asked], float]:
    """Requests that may generate 200 tokens and mostly stop long before; and how many ran at a time on average."""
    engine = Engine(
        pool_tokens=900, max_length=300, records=2 * number, check=False, running_max_req_size=32, vocabulary=40,
        admission=admission, watermark=1.0, disable_dynamic_prompt_cache=True,
    )  # fmt: skip
    draw, asked, sizes = random.Random(0), [], []
    while len(asked) < number:
        prompt = [draw.randrange(40) for _ in range(draw.randint(5, 30))]
        if len(alone(prompt, max_tokens=200, vocabulary=40, stops=(3,))) < 200:
            asked.append(engine.ask(prompt, 200, stops=(3,)))
    while engine.step():
        sizes.append(engine.metrics.total("batch_current_size"))
    for request in asked:
        engine.check_output(request)
    return engine, asked, float(np.mean(sizes[len(sizes) // 3 :]))


def test_it_runs_more_at_a_time_than_conservative_and_preempts_less_than_the_watermark():
    served = {name: serve(name, number=160) for name in ("past_future", "conservative", "watermark")}
    engine, asked, size = served["past_future"]
    assert size > 2 * served["conservative"][2]
    preemptions = {name: engine.metrics.total("preemptions") for name, (engine, _, _) in served.items()}
    # They all came at once, when nothing was known: what little it costs to learn is all that it costs.
    assert preemptions["past_future"] < 0.2 * preemptions["watermark"]
    assert preemptions["watermark"] > 0.2 * len(asked)
    total = engine.metrics.total
    assert total("length_history_size") == 160
    assert total("output_tokens_ended") == total("generated_tokens")
    assert total("output_tokens_expected") == 160 * 200
