"""Beams in the scheduler: what is found does not depend on memory, on others, or on how often they gave way."""

import pytest

from lightllm.base.beams import BeamOptions
from lightllm.base.request import FinishReason
from tests.serving.scheduling.engine import Asked, Engine
from tests.serving.scheduling.test_scheduler import AMPLE, TINY, finish_and_check

STOPS = tuple(range(0, 64, 5))[:3]
SEARCHES = [
    BeamOptions(3),
    BeamOptions(4, length_penalty=0.3, early_stopping=True),
    BeamOptions(4, groups=2, diversity_penalty=0.7, early_stopping="never"),
    BeamOptions(1),
]


def prompt(number: int) -> list[int]:
    return [3, 1, 4, 1, 5, 9, 2, 6][: 4 + number % 5] + [number]


def search(engine: Engine, number: int, **options) -> list[Asked]:
    beams = SEARCHES[number % len(SEARCHES)]
    samples = min(2, beams.width)
    return engine.ask_samples(prompt(number), 12, samples, beams=beams, stops=STOPS, num_logprobs=2, **options)


def found(engine: Engine, samples: list[Asked]) -> list:
    """Tokens, logprobs and finish reasons."""
    count = [engine.field(sample, "num_output") for sample in samples]
    return [
        (engine.table.output(sample.index, 0, n).tolist(), engine.finish(sample))
        for sample, n in zip(samples, count, strict=True)
    ]


def alone(number: int) -> list:
    engine = Engine(**AMPLE)
    samples = search(engine, number)
    engine.run()
    return found(engine, samples)


@pytest.mark.parametrize("pool", [TINY, AMPLE], ids=["tiny", "ample"])
@pytest.mark.parametrize("chunk", [1, 4096])
def test_a_search_finds_what_it_finds_alone(pool: dict, chunk: int):
    engine = Engine(running_max_req_size=16, chunked_prefill_size=chunk, **pool)
    others = [engine.ask([number] * 9, 30) for number in range(4)]
    searches = [search(engine, number) for number in range(8)]
    others += [engine.ask([number] * 9, 30) for number in range(4)]
    engine.run()
    for number, samples in enumerate(searches):
        assert found(engine, samples) == alone(number)
        assert {engine.finish(sample) for sample in samples} <= {FinishReason.STOP, FinishReason.LENGTH}
        assert all(sample.told for sample in samples), "the end is reported"
    assert (engine.metrics.total("preemptions") > 0) == (pool is TINY)
    for sample in [sample for samples in searches for sample in samples]:
        engine.release(sample)
    finish_and_check(engine, others)


def test_searches_that_need_the_whole_pool_take_turns():
    engine = Engine(pool_tokens=5 + 3 * 12, max_length=40, admission="watermark", watermark=1.0)
    searches = [engine.ask_samples([n, 1, 2, 3, 4], 12, 3, beams=BeamOptions(3)) for n in range(4)]
    engine.run()
    for sample in [sample for samples in searches for sample in samples]:
        assert engine.finish(sample) == FinishReason.LENGTH
        assert engine.field(sample, "num_output") == 12
        engine.release(sample)
    engine.drain()
    engine.check_empty()


def test_a_prompt_and_what_beams_have_in_common_are_computed_once():
    engine = Engine(**AMPLE)
    engine.ask_samples([7] * 50, 10, 4, beams=BeamOptions(4))
    engine.run()
    # Each of four beams runs the prompt's last token, then at most one token a round.
    assert engine.device.num_tokens <= 49 + 4 * 10


@pytest.mark.parametrize("steps", range(5))
def test_a_search_ends_as_a_whole_when_one_of_its_samples_is_released(steps: int):
    engine = Engine(**AMPLE)
    samples = engine.ask_samples([7] * 50, 10, 3, beams=BeamOptions(4))
    other = engine.ask([1, 2], 10)
    for _ in range(steps):
        engine.step()
    engine.release(samples[1])
    assert [engine.finish(samples[i]) for i in (0, 2)] == [FinishReason.ABORT] * 2
    for i in (0, 2):
        engine.release(samples[i])
    finish_and_check(engine, [other])


def test_a_search_whose_time_is_up_ends():
    engine = Engine(**AMPLE)
    samples = engine.ask_samples([7] * 50, 10, 2, beams=BeamOptions(4), timeout_s=5)
    engine.step()
    engine.now += 10
    engine.run()
    assert [engine.finish(sample) for sample in samples] == [FinishReason.TIMEOUT] * 2


def test_a_search_for_which_there_are_not_rows_enough_waits_for_them():
    engine = Engine(running_max_req_size=4, **AMPLE)
    others = [engine.ask([number] * 9, 5) for number in range(3)]
    samples = search(engine, 1)
    engine.run()
    assert found(engine, samples) == alone(1)
    for sample in samples:
        engine.release(sample)
    finish_and_check(engine, others)


def test_a_search_wider_than_what_can_run_ends_at_once():
    engine = Engine(running_max_req_size=2, **AMPLE)
    samples = engine.ask_samples([1, 2, 3], 5, 2, beams=BeamOptions(3))
    assert [engine.finish(sample) for sample in samples] == [FinishReason.ERROR] * 2
