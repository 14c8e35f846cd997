"""Simulated runs: the server's scheduler, the clock of a cost model."""

from dataclasses import replace

import numpy as np
import pytest

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.base.request import FinishReason
from lightllm.simulation import workloads
from lightllm.simulation.capacity import arrival_times, seconds_per_request
from lightllm.simulation.clients import Arrivals, Service, Targets
from lightllm.simulation.cost import StepCost
from lightllm.simulation.run import Steps, simulate
from lightllm.simulation.trace import Trace

COST = StepCost(fixed_ms=5, token_ms=0.02, context_ms=3e-5, pair_ms=1e-6)
TARGETS = Targets()


def requests(*lengths: tuple[int, int], max_tokens: int = 100) -> Trace:
    """A trace of (prompt, output) lengths; the last request only ends the run."""
    prompt, output = np.array([*lengths, (1, 1)]).T
    count = len(prompt)
    return Trace("test", prompt, output, np.full(count, max_tokens), np.zeros(count, dtype=np.int64))


def run(trace: Trace, times: list[float], *, pool_tokens: int = 1000, targets: Targets = TARGETS, **settings):
    config = EngineConfig(**{"running_max_req_size": 64, **settings})
    return simulate(trace, Arrivals(np.array(times)), config, pool_tokens=pool_tokens, cost=COST, targets=targets)


def test_a_request_alone_is_served_in_the_time_its_steps_take():
    service, steps = run(requests((100, 4)), [2.0, 9.0])
    prefill = COST.of(tokens=100, context=100, pairs=5050)
    decodes = [COST.of(tokens=1, context=length, pairs=length) for length in (101, 102, 103)]
    assert service.first_token[0] == pytest.approx(2 + prefill)
    assert service.ended[0] == pytest.approx(2 + prefill + sum(decodes))
    assert service.largest_gap[0] == pytest.approx(max(decodes))
    assert service.output[0] == 4
    assert service.reason[0] == FinishReason.STOP
    # The step after the eos token was planned before the token was known.
    assert (steps.end < 9).sum() == 5
    assert steps.actual_peak[0] == 103


def test_all_requests_get_the_output_that_the_trace_says():
    trace = workloads.draw("prefill_heavy", seed=0, count=120).scaled(32)
    times = arrival_times(trace, 1.0, COST, pool_tokens=3750, rows=64, seed=0)
    service, _ = run(trace, times.tolist(), pool_tokens=3750, admission="watermark", watermark=1.0)
    has_stopped = service.reason == FinishReason.STOP
    assert has_stopped.sum() > 60
    assert (service.output[has_stopped] == trace.output[has_stopped]).all()
    assert service.preemptions.sum() > 0


def test_runs_are_equal():
    def once() -> tuple[Service, Steps]:
        trace = workloads.draw("decode_heavy", seed=3, count=40).scaled(64)
        return run(trace, np.linspace(0, 10, 40).tolist(), pool_tokens=1500, admission="watermark")

    (first, first_steps), (again, again_steps) = once(), once()
    assert first.ended.tobytes() == again.ended.tobytes()
    assert first_steps.used.tobytes() == again_steps.used.tobytes()


def test_recompute_after_eviction_takes_its_time():
    # Both grow to 100 slots; 150 are there, so one is set back and its 50 to 100 tokens are computed again.
    trace = requests((50, 51), (50, 51))
    ample, _ = run(trace, [0, 0, 9], pool_tokens=300, admission="watermark", disable_dynamic_prompt_cache=True)
    tight, _ = run(trace, [0, 0, 9], pool_tokens=150, admission="watermark", disable_dynamic_prompt_cache=True)
    assert ample.preemptions.sum() == 0
    assert tight.preemptions.sum() == 1
    assert np.nanmax(tight.ended[:2]) > np.nanmax(ample.ended[:2]) + COST.of(tokens=75, context=75, pairs=0)


def test_told_lengths_make_the_prediction_exact():
    trace = workloads.draw("decode_heavy", seed=0, count=60).scaled(32)
    told = replace(trace, max_tokens=trace.output)
    service, steps = run(told, np.linspace(0, 20, 60).tolist(), pool_tokens=3000, batch_max_tokens=4096)
    assert service.preemptions.sum() == 0
    assert (steps.used <= 3000).all()
    # At most the few steps of a prefill lie between what is predicted and what happens.
    assert np.abs(steps.predicted_peak - steps.actual_peak).max() <= 70


def test_a_client_leaves_whose_request_does_not_begin():
    trace = requests((50, 90), (60, 90))
    service, _ = run(trace, [0, 0, 9], pool_tokens=170, targets=Targets(patience_s=0.2))
    assert service.reason[:2].tolist() == [FinishReason.STOP, FinishReason.ABORT]
    assert service.ended[1] == pytest.approx(0.2, abs=0.01)
    assert np.isnan(service.first_token[1])


def test_clients_in_a_closed_loop_ask_when_they_are_answered():
    trace = requests(*[(10, 20)] * 9)
    config = EngineConfig(running_max_req_size=64)
    service, _ = simulate(trace, Arrivals(clients=2), config, pool_tokens=1000, cost=COST, targets=TARGETS)
    asked, answered = service.submitted, np.sort(service.ended[~np.isnan(service.ended)])
    assert asked[:2].tolist() == [0, 0]
    assert asked[2:].tolist() == answered[: len(asked) - 2].tolist()


def test_lengths_of_the_past_are_known_from_the_start():
    trace = workloads.draw("decode_heavy", seed=0, count=40).scaled(32)
    times, config = np.linspace(0, 1, 40), EngineConfig(running_max_req_size=64, admission="past_future")

    def predicted(past: Trace | None) -> list[int]:
        arrivals = Arrivals(times)
        _, steps = simulate(trace, arrivals, config, pool_tokens=3750, cost=COST, targets=TARGETS, past=past)
        return steps.predicted_peak.tolist()

    # Shorter than their clients allow, as is known only after they have ended.
    short = requests(*[(10, 20)] * 500, max_tokens=128)
    assert all(known < unknown for known, unknown in zip(predicted(short), predicted(None), strict=True))


def test_capacity_is_what_a_full_server_reaches():
    trace = workloads.draw("decode_heavy", seed=0, count=250).scaled(32)
    told, cost = replace(trace, max_tokens=trace.output), COST.scaled(32)
    config = EngineConfig(running_max_req_size=64, batch_max_tokens=256)
    patient = Targets(patience_s=1e6)
    service, _ = simulate(told, Arrivals(clients=50), config, pool_tokens=3750, cost=cost, targets=patient)
    window = service.submitted[100] < service.ended
    reached = window.sum() / (service.submitted[-1] - service.submitted[100])
    expected = 1 / seconds_per_request(told, cost, pool_tokens=3750, rows=64)
    assert reached == pytest.approx(expected, rel=0.1)


def test_each_phase_asks_for_the_load():
    trace = workloads.draw("shift", seed=0, count=2000)
    times = arrival_times(trace, 0.5, COST, pool_tokens=120_000, rows=256, seed=0)
    halves = [times[999], times[-1] - times[999]]
    for half, took in zip((slice(0, 1000), slice(1000, 2000)), halves, strict=True):
        part = replace(trace, prompt=trace.prompt[half], output=trace.output[half])
        assert took == pytest.approx(
            1000 * seconds_per_request(part, COST, pool_tokens=120_000, rows=256) / 0.5, rel=0.1
        )


def test_a_request_that_the_pool_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="requests of up to 201 tokens, the pool has 150; give more --pool_tokens"):
        run(requests((101, 5)), [0, 1], pool_tokens=150)
