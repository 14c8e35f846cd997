import random
from dataclasses import replace

import pytest

from lightllm.base.config import EngineConfig
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.step_budget import StepBudget
from tests.serving.scheduling.engine import Engine

LIMITS = StepLimits.of(EngineConfig(itl_target_s=0.02), max_length=10_000)
COSTS = (0.004, 5e-6, 2e-5)  # s: of any step, of a prompt token, of a decode


def seconds(prompt_tokens: int, decodes: int) -> float:
    return COSTS[0] + COSTS[1] * prompt_tokens + COSTS[2] * decodes


def taught(budget: StepBudget, *, steps: int, noise: float = 0.0, factor: float = 1.0, start: float = 0.0) -> float:
    """Steps of all sizes, each planned while the one before runs. Returns the time of the last result."""
    draw, now = random.Random(0), start
    for _ in range(steps):
        prompt_tokens, decodes = draw.choice([0, 0, draw.randrange(4000)]), draw.randrange(256)
        budget.note_plan(now - 0.001, prompt_tokens=prompt_tokens, decodes=decodes)
        now += factor * seconds(prompt_tokens, decodes) * (1 + noise * draw.uniform(-1, 1))
        budget.note_result(now)
    return now


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_budget_makes_a_step_take_the_target(noise: float):
    budget = StepBudget(LIMITS, target_s=0.02)
    taught(budget, steps=400, noise=noise)
    assert budget.costs() == pytest.approx(COSTS, rel=0.01 + noise / 2)
    for decodes in (0, 60, 250):
        prompt_tokens = budget.tokens(decodes) - decodes
        assert seconds(prompt_tokens, decodes) == pytest.approx(0.02, rel=0.02 + noise / 5)


def test_a_device_that_slows_down_is_given_less():
    budget = StepBudget(LIMITS, target_s=0.02)
    now = taught(budget, steps=400)
    before = budget.tokens(10)
    taught(budget, steps=1500, factor=2.0, start=now)
    assert LIMITS.prompt_tokens < budget.tokens(10) < before / 2


def test_decodes_always_run_and_prompts_go_on_whatever_the_target():
    budget = StepBudget(LIMITS, target_s=1e-6)
    taught(budget, steps=50)
    assert budget.tokens(200) == 200 + LIMITS.prompt_tokens


def test_no_step_is_larger_than_allowed():
    budget = StepBudget(LIMITS, target_s=100.0)
    taught(budget, steps=50)
    assert budget.tokens(200) == LIMITS.tokens
    small = StepBudget(replace(LIMITS, tokens=20, prompt_tokens=20), target_s=1e-6)
    taught(small, steps=50)
    assert small.tokens(15) == 20


def test_steps_that_are_all_alike_teach_what_they_can():
    budget = StepBudget(LIMITS, target_s=0.02)
    for step in range(100):
        budget.note_plan(step * 0.01, prompt_tokens=0, decodes=64)
        budget.note_result((step + 1) * 0.01)
    assert 64 + LIMITS.prompt_tokens <= budget.tokens(64) <= LIMITS.tokens


def test_without_a_target_steps_are_as_large_as_allowed():
    budget = StepBudget(LIMITS, target_s=None)
    budget.note_plan(0.0, prompt_tokens=8192, decodes=0)
    budget.note_result(10.0)
    assert budget.tokens(10) == LIMITS.tokens


def test_streams_get_their_tokens_in_time_while_a_long_prompt_runs():
    """On a device that takes 1 ms a step and 50 us a token."""
    engine = Engine(itl_target_s=0.005, batch_max_tokens=512, max_length=4096, pool_tokens=20_000)

    def longest_of(steps: int) -> float:
        longest = 0.0
        for _ in range(steps):
            while engine.scheduler.num_outstanding < 2 and (plan := engine.scheduler.plan()) is not None:
                engine.launch(plan)
            seconds = 0.001 + 0.00005 * len(engine.plans[-len(engine.results)].tokens)
            engine.now += seconds
            engine.scheduler.digest(engine.results.popleft())
            longest = max(longest, seconds)
        return longest

    for token in range(8):
        engine.ask([token] * 100, 300)
    assert longest_of(40) > 0.02, "nothing is known yet"
    prompt = engine.ask([9] * 2000, 3)
    assert longest_of(40) <= 0.0051
    assert engine.field(prompt, "num_output") == 3
    engine.run()
    for asked in engine.asked.values():
        assert engine.output(asked) == asked.expected(engine.vocabulary)


def test_stated_maxima_are_never_exceeded_with_the_least_budget():
    engine = Engine(
        itl_target_s=1e-6, pool_tokens=400, max_length=300, admission="conservative", batch_max_tokens=200,
        running_max_req_size=16,
    )  # fmt: skip
    draw = random.Random(4)
    asked = [engine.ask([draw.randrange(64)] * draw.randint(1, 150), draw.randint(1, 60)) for _ in range(40)]
    while engine.step():
        engine.now += 0.01
    assert engine.metrics.total("preemptions") == 0
    for one in asked:
        engine.check_output(one)
