import random

import pytest

from lightllm.base.request import FinishReason
from lightllm.serving.scheduling.admission import longest_admissible, why_not_alone
from tests.serving.scheduling.engine import Engine


def test_validation_lets_in_exactly_what_fits():
    for prompt in (1, 7, 30):
        for pool_tokens, max_length in [(30, 40), (30, 31), (30, 30), (30, 20), (1, 2)]:
            most = longest_admissible(prompt, pool_tokens=pool_tokens, max_length=max_length)
            if most >= 1:
                assert why_not_alone(prompt, most, pool_tokens=pool_tokens, max_length=max_length) is None
            assert why_not_alone(prompt, max(1, most + 1), pool_tokens=pool_tokens, max_length=max_length)


def test_a_refusal_names_the_numbers_and_the_knob():
    reason = why_not_alone(40, 12, pool_tokens=50, max_length=100)
    assert reason is not None
    for word in ("40", "max_tokens=12", "51", "50", "--max_total_token_num"):
        assert word in reason
    reason = why_not_alone(60, 41, pool_tokens=200, max_length=100)
    assert reason is not None
    for word in ("60", "max_tokens=41", "101", "100", "--max_req_total_len"):
        assert word in reason
    assert why_not_alone(0, 1, pool_tokens=10, max_length=10) is not None


@pytest.mark.parametrize("seed", range(12))
def test_what_validation_lets_in_runs_on_an_empty_server(seed: int):
    draw = random.Random(seed)
    for _ in range(8):
        pool_tokens, max_length = draw.randint(1, 60), draw.randint(2, 60)
        engine = Engine(
            pool_tokens=pool_tokens, max_length=max_length, records=8,
            admission=draw.choice(["past_future", "conservative", "watermark"]),
            watermark=draw.choice([0.01, 0.5, 1.0]),
            batch_max_tokens=draw.choice([1, 7, 100]), chunked_prefill_size=draw.choice([1, 5, None]),
            disable_dynamic_prompt_cache=draw.random() < 0.5, router_max_new_token_len=draw.choice([1, 2048]),
        )  # fmt: skip
        prompt, max_tokens = draw.randint(1, max_length), draw.randint(1, 60)
        asked = engine.ask([draw.randrange(3) for _ in range(prompt)], max_tokens, given=draw.random() < 0.5)
        engine.run()
        if why_not_alone(prompt, max_tokens, pool_tokens=pool_tokens, max_length=max_length):
            assert engine.finish(asked) == FinishReason.ERROR
        else:
            engine.check_output(asked)


def num_started_together(prompts: list[list[int]], max_tokens: int, *, pool_tokens: int, **settings) -> int:
    """How many of the requests run from the first step on. In the end all are served."""
    engine = Engine(pool_tokens=pool_tokens, max_length=200, **settings)
    asked = [engine.ask(prompt, max_tokens, stops=(64,)) for prompt in prompts]
    engine.run()
    for request in asked:
        engine.check_output(request)
    return len(engine.plans[0].begins)


def test_a_shared_prompt_counts_once():
    prompts = [[1] * 100 + [token] for token in range(8)]
    # Each needs 10 slots of its own, and while the first to end still has its own the others may grow.
    pool_tokens = 100 + 8 * 10 + 7
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens) == 8
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens - 1) == 7
    assert num_started_together(prompts, 10, pool_tokens=pool_tokens, disable_dynamic_prompt_cache=True) == 1


def test_conservative_admits_what_fits_at_the_peak_and_watermark_what_fits_now():
    prompts = [[token] * 20 for token in range(4)]
    assert num_started_together(prompts, 30, pool_tokens=2 * 49 + 1) == 2
    assert num_started_together(prompts, 30, pool_tokens=2 * 49) == 1
    assert num_started_together(prompts, 30, pool_tokens=100, admission="watermark", watermark=0.8) == 4
    assert num_started_together(prompts, 30, pool_tokens=100, admission="watermark", watermark=0.6) == 3


def test_a_request_without_a_maximum_counts_with_an_estimate():
    engine = Engine(pool_tokens=200, max_length=150, router_max_new_token_len=20)
    asked = [engine.ask([token] * 10, 140, given=False, stops=(64,)) for token in range(5)]
    engine.step()
    engine.step()
    assert engine.metrics.total("batch_current_size") == 5
    engine.run()
    for request in asked:
        engine.check_output(request)
