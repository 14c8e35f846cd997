"""The scheduler with a device that notices every wrong slot: what a request gets never depends on what else runs."""

import dataclasses
import random

import numpy as np
import pytest

from lightllm.base.messages import Progress, references
from lightllm.base.request import FinishReason
from lightllm.base.request_table import output_words, rows_per_page
from lightllm.base.step import FAILED, LAST_SAMPLED
from tests.serving.scheduling.device import alone, context_hashes, logprobs, score
from tests.serving.scheduling.engine import Asked, Engine

TINY = {"pool_tokens": 120, "max_length": 100, "admission": "watermark", "watermark": 1.0}
AMPLE = {"pool_tokens": 4096, "max_length": 100}


def load(engine: Engine, *, seed: int = 0, number: int = 24, **options) -> list[Asked]:
    """Requests of mixed sizes, half of which begin alike."""
    draw = random.Random(seed)
    common = [draw.randrange(64) for _ in range(20)]
    return [
        engine.ask(
            common[: draw.choice([0, 20])] + [draw.randrange(64) for _ in range(draw.randint(1, 30))],
            draw.randint(1, 40),
            **options,
        )
        for _ in range(number)
    ]


def finish_and_check(engine: Engine, asked: list[Asked]) -> None:
    engine.run()
    for request in asked:
        engine.check_output(request)
        engine.release(request)
    engine.drain()
    engine.check_empty()


@pytest.mark.parametrize("pool", [TINY, AMPLE], ids=["tiny", "ample"])
@pytest.mark.parametrize("chunk", [1, 16, 4096])
@pytest.mark.parametrize("no_cache", [False, True], ids=["cache", "no-cache"])
def test_every_request_gets_what_it_gets_alone(no_cache: bool, chunk: int, pool: dict):
    engine = Engine(disable_dynamic_prompt_cache=no_cache, chunked_prefill_size=chunk, running_max_req_size=16, **pool)
    asked = load(engine, stops=(7, 9))
    finish_and_check(engine, asked)
    assert (engine.metrics.total("preemptions") > 0) == (pool is TINY)


@pytest.mark.parametrize("pool", [TINY, AMPLE], ids=["tiny", "ample"])
@pytest.mark.parametrize("chunk", [7, 4096])
@pytest.mark.parametrize("no_cache", [False, True], ids=["cache", "no-cache"])
def test_every_token_of_a_prompt_is_scored_once_whatever_is_cached_or_preempted(no_cache: bool, chunk: int, pool: dict):
    engine = Engine(disable_dynamic_prompt_cache=no_cache, chunked_prefill_size=chunk, running_max_req_size=16, **pool)
    prompts = [[1, 2, 3] * 8, [1, 2, 3] * 8, [1, 2, 3, 4] * 7, [5]]
    asked = [engine.ask(prompts[i % 4] + [i] * (i % 3), 20, num_prompt_logprobs=[-1, 0, 3][i % 3]) for i in range(16)]
    engine.run()
    for request, count in zip(asked, [-1, 0, 3] * 6, strict=False):
        if count < 0:
            assert engine.field(request, "num_scores") == 0
            continue
        contexts = context_hashes(np.array(request.prompt)).tolist()
        expected = [score(*each, count) for each in zip(contexts[:-1], request.prompt[1:], strict=True)]
        got = engine.table.scores(request.index)
        logprobs = got[:, [1, *range(2 + count, 2 + 2 * count)]].view(np.float32).tolist()
        assert got[:, 0].tolist() == request.prompt[1:]
        assert got[:, 2 : 2 + count].tolist() == [tokens for _, tokens, _ in expected]
        assert logprobs == [[chosen, *top] for chosen, _, top in expected]
    assert (engine.metrics.total("preemptions") > 0) == (pool is TINY)
    finish_and_check(engine, asked)


def test_a_request_whose_prompts_scores_find_no_page_ends_alone():
    engine = Engine(output_pages=2, **AMPLE)
    scored = engine.ask([1] * 60, 1, num_prompt_logprobs=20)  # 24 rows to a page
    engine.run()
    assert engine.finish(scored) == FinishReason.ERROR
    engine.release(scored)
    finish_and_check(engine, [engine.ask([1] * 60, 1)])


def test_a_sequence_without_a_token_ends_alone():
    engine = Engine(**AMPLE)
    first, second = engine.ask([1, 2, 3], 10), engine.ask([4, 5], 10)
    digest = engine.scheduler.digest

    def fail_first(result) -> None:
        if len(engine.output(first)) == 4 and not engine.finish(first):
            result.tokens[0] = FAILED
        digest(result)

    engine.scheduler.digest = fail_first  # type: ignore[method-assign]
    engine.run()
    assert engine.finish(first) is FinishReason.GRAMMAR
    assert engine.output(first) == first.expected(64)[: len(engine.output(first))]
    engine.check_output(second)


def test_preempted_requests_resume_exactly_and_say_so():
    engine = Engine(running_max_req_size=16, **TINY)
    asked = [engine.ask([token] * 10, 80) for token in range(8)]
    engine.run()
    preemptions = [engine.field(request, "preemptions") for request in asked]
    assert preemptions[0] == 0, "the oldest request always goes on"
    assert sum(preemptions) == engine.metrics.total("preemptions") > 0
    assert engine.device.num_samples == 8 * 80, "what was in flight at a preemption still counts"
    finish_and_check(engine, asked)


def test_a_preempted_request_recomputes_only_what_was_evicted():
    engine = Engine(running_max_req_size=16, **TINY)
    asked = [engine.ask([token] * 30, 40) for token in range(3)]
    finish_and_check(engine, asked)
    assert engine.metrics.total("preemptions") > 0
    recomputed = engine.device.num_tokens - sum(30 + 39 for _ in asked)
    without_cache = Engine(running_max_req_size=16, disable_dynamic_prompt_cache=True, **TINY)
    asked = [without_cache.ask([token] * 30, 40) for token in range(3)]
    finish_and_check(without_cache, asked)
    assert recomputed < without_cache.device.num_tokens - sum(30 + 39 for _ in asked)


def test_stated_maxima_are_never_exceeded_so_nobody_is_preempted():
    for seed in range(6):
        draw = random.Random(seed)
        engine = Engine(
            pool_tokens=draw.choice([100, 200]), max_length=100, check=False, admission="conservative",
            batch_max_tokens=draw.choice([3, 8, 400]), chunked_prefill_size=draw.choice([1, 5, 16, None]),
            running_max_req_size=draw.choice([2, 16]), disable_dynamic_prompt_cache=draw.random() < 0.3,
        )  # fmt: skip
        asked = load(engine, seed=seed, stops=draw.choice([(), (7, 9)]))
        finish_and_check(engine, asked)
        assert engine.metrics.total("preemptions") == 0, f"seed {seed}"


@pytest.mark.parametrize("admission", ["past_future", "conservative"])
def test_wrong_estimates_are_made_up_for_by_preemption(admission: str):
    engine = Engine(
        pool_tokens=120, max_length=100, router_max_new_token_len=2, running_max_req_size=16, admission=admission,
    )  # fmt: skip
    asked = load(engine, given=False, stops=(64,))
    finish_and_check(engine, asked)
    assert engine.metrics.total("preemptions") > 0


def test_a_second_request_shares_a_prompt_while_the_first_prefills():
    engine = Engine(chunked_prefill_size=256, batch_max_tokens=300)
    prompt = list(np.random.default_rng(0).integers(0, 64, 1000))
    first = engine.ask(prompt, 4)
    engine.step()
    second = engine.ask(prompt, 4)
    assert engine.field(first, "num_output") == 0
    engine.run()
    assert engine.field(second, "cached_tokens") > 0
    assert engine.device.num_tokens <= 1000 + 1 + 2 * 3 + 2
    finish_and_check(engine, [first, second])


def test_samples_of_one_prompt_compute_it_once_in_the_same_step():
    engine = Engine(batch_max_tokens=1000)
    prompt = list(np.random.default_rng(0).integers(0, 64, 500))
    asked = [engine.ask(prompt, 3) for _ in range(8)]
    engine.step()
    assert len(engine.plans[0].tokens) == 500 + 7
    assert [engine.field(request, "cached_tokens") for request in asked] == [0] + [499] * 7
    finish_and_check(engine, asked)


def test_made_up_salts_are_forgotten():
    engine = Engine(pool_tokens=200, max_length=100)
    for salt in range(1, 700):
        asked = engine.ask([salt % 60, 1, 2], 2, salt=salt)
        engine.run()
        engine.check_output(asked)
        engine.release(asked)
    assert len(engine.scheduler._pool.tree._roots) <= 257


def test_keys_and_values_are_found_only_by_requests_of_the_same_salt():
    engine, prompt = Engine(), list(range(50))
    first = [engine.ask(prompt, 3, salt=salt) for salt in (0, 1, 2)]
    engine.run()
    assert [engine.field(request, "cached_tokens") for request in first] == [0, 0, 0]
    second = [engine.ask(prompt, 3, salt=salt) for salt in (2, 1, 0)]
    engine.run()
    assert [engine.field(request, "cached_tokens") for request in second] == [49, 49, 49]
    finish_and_check(engine, [*first, *second])


def test_a_conversation_finds_its_own_answer_in_the_tree():
    engine = Engine()
    first = engine.ask(list(range(50)), 20)
    engine.run()
    second = engine.ask(first.prompt + engine.output(first) + [1, 2, 3], 5)
    engine.run()
    # All but the last token sampled, whose keys and values nobody has computed.
    assert engine.field(second, "cached_tokens") == 50 + 19
    finish_and_check(engine, [first, second])


@pytest.mark.parametrize("admission", ["past_future", "conservative", "watermark"])
@pytest.mark.parametrize(
    ("prompt", "max_tokens", "chunk"), [(1, 1, 8), (40, 1, 8), (1, 40, 8), (37, 25, 5), (37, 25, 64)]
)
def test_a_pool_of_exactly_the_need_finishes(prompt: int, max_tokens: int, chunk: int, admission: str):
    need = prompt + max_tokens - 1
    settings = {"admission": admission, "watermark": 0.5, "chunked_prefill_size": chunk}
    engine = Engine(pool_tokens=need, max_length=100, **settings)
    for _ in range(3):  # the second time the pool is full of what the first left in the tree
        asked = engine.ask([5] * prompt, max_tokens)
        engine.run()
        engine.check_output(asked)
    engine = Engine(pool_tokens=need - 1 or 1, max_length=100, **settings)
    if need > 1:
        asked = engine.ask([5] * prompt, max_tokens)
        assert engine.finish(asked) == FinishReason.ERROR
        engine.drain()
        assert asked.told == [0]


def test_a_request_that_can_never_run_does_not_block_the_queue():
    engine = Engine(pool_tokens=50, max_length=100)
    too_long, fits = engine.ask([1] * 40, 20), engine.ask([1] * 40, 5)
    engine.run()
    assert engine.finish(too_long) == FinishReason.ERROR
    engine.check_output(fits)


def test_the_last_token_of_a_known_length_wastes_no_row():
    engine = Engine()
    asked = engine.ask([1, 2, 3], 10)
    engine.run()
    assert engine.device.num_tokens == 3 + 9
    finish_and_check(engine, [asked])


def test_a_stop_token_is_part_of_the_output_and_wastes_one_row_that_leaves_no_trace():
    engine = Engine()
    output = alone([1, 2, 3], max_tokens=30, vocabulary=engine.vocabulary)
    stop = output[7]
    length = output.index(stop) + 1
    asked = engine.ask([1, 2, 3], 30, stops=(stop,))
    engine.run()
    assert engine.output(asked) == output[:length]
    assert engine.device.num_tokens == 3 + length
    assert engine.metrics.total("kv_slots_cached") == 3 + length - 1
    finish_and_check(engine, [asked])


def test_stop_tokens_count_from_min_tokens_on_and_workers_are_told():
    engine = Engine(vocabulary=4)
    asked = engine.ask([1], 60, stops=(0, 1, 2), min_tokens=20)
    free = engine.ask([1], 60, stops=(3,))
    engine.step()
    begins = {int(begin["row"]): begin for begin in engine.plans[0].begins}
    assert [int(begin["num_stops"]) for begin in begins.values()] == [3, 0]
    assert engine.plans[0].stop_tokens.tolist() == [0, 1, 2]
    finish_and_check(engine, [asked, free])
    assert len(asked.expected(4)) > 20


@pytest.mark.parametrize("num_logprobs", [0, 3, 20])
def test_logprobs_lie_beside_their_tokens(num_logprobs: int):
    engine = Engine()
    asked = [engine.ask([1, 2], 200, num_logprobs=num_logprobs), engine.ask([1, 3], 200)]
    asked.append(engine.ask([4], 90, num_logprobs=1))
    engine.run()
    for request, count in zip(asked, (num_logprobs, None, 1), strict=True):
        rows = engine.table.output(request.index, 0, request.max_tokens)
        for row in rows if count is not None else []:
            logprob, top, top_logprobs = logprobs(int(row[0]), count)
            assert row[1:2].view(np.float32) == logprob
            assert row[2 : 2 + count].tolist() == top.tolist()
            assert row[2 + count :].view(np.float32).tolist() == top_logprobs.tolist()
    finish_and_check(engine, asked)


def test_running_out_of_output_pages_ends_the_request_that_needs_one():
    engine = Engine(output_pages=2)
    in_a_page = rows_per_page(output_words(20))
    asked = [engine.ask([token], 100, num_logprobs=20) for token in range(3)]
    engine.run()
    assert [engine.finish(request) for request in asked] == [FinishReason.ERROR] * 3
    assert [engine.field(request, "num_output") for request in asked] == [in_a_page, in_a_page, 0]
    assert engine.output(asked[0]) == asked[0].expected(engine.vocabulary)[:in_a_page]
    for request in asked:
        engine.release(request)
    engine.check_empty()
    finish_and_check(engine, [engine.ask([3], 2 * in_a_page, num_logprobs=20)])


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("how", ["release", "stop", "forget"])
def test_a_request_may_be_ended_at_any_point(how: str, at: int):
    engine = Engine(chunked_prefill_size=8, running_max_req_size=3)
    others = [engine.ask([token] * 20, 12, client=1) for token in (1, 2)]
    asked, waiting = engine.ask([1] * 25, 6), engine.ask([1] * 25, 6, client=1)
    for _ in range(at):
        engine.step()
    if how == "release":
        engine.release(asked)
    elif how == "stop":
        engine.scheduler.stop(asked.index, asked.generation)
        assert engine.finish(asked) in (FinishReason.STOP, FinishReason.LENGTH)
        assert engine.output(asked) == asked.expected(engine.vocabulary)[: len(engine.output(asked))]
        engine.release(asked)
    else:
        engine.scheduler.forget_client(0)
        engine.reclaim(asked)
    again = engine.ask([1] * 25, 6)
    assert again.index == asked.index, "results for the old request may still be in flight"
    finish_and_check(engine, [*others, waiting, again])


def test_a_client_that_leaves_frees_its_slots_before_the_next_plan():
    engine = Engine()
    asked = engine.ask([1] * 100, 50)
    for _ in range(5):
        engine.step()
    assert engine.scheduler._pool.num_used > 100
    engine.release(asked)
    assert engine.scheduler._pool.num_used == 0
    assert engine.table.records[asked.index]["output_generation"] == 0


def test_what_is_known_of_old_generations_is_ignored():
    engine = Engine()
    asked = engine.ask([1, 2], 5)
    engine.scheduler.release(asked.index, asked.generation - 1)
    engine.scheduler.stop(asked.index, asked.generation + 1)
    engine.scheduler.submit(asked.index + 1, 17)
    engine.scheduler.release(asked.index + 1, 17)
    finish_and_check(engine, [asked])
    engine.scheduler.stop(asked.index, asked.generation)
    assert engine.scheduler.drain() is None


def test_a_record_submitted_again_before_its_release_is_heard_of_begins_anew():
    engine = Engine()
    first = engine.ask([1, 2], 50)
    engine.step()
    engine.reclaim(first)
    second = engine.ask([3], 5)
    assert second.index == first.index
    engine.scheduler.release(first.index, first.generation)
    finish_and_check(engine, [second])


def test_a_record_taken_back_before_it_is_read_never_runs():
    engine = Engine()
    asked, other = engine.ask([1, 2, 3], 5), engine.ask([4], 5)
    # What its client does first of all when it releases; the message comes later.
    engine.table.records["generation"][asked.index] += 1
    engine.table.records["prompt_page"][asked.index] = -1
    engine.run()
    assert engine.finish(asked) == FinishReason.ABORT
    assert engine.device.num_tokens == 1 + 4
    engine.scheduler.release(asked.index, asked.generation)
    finish_and_check(engine, [other])


def test_what_a_client_writes_after_its_release_changes_nothing():
    engine = Engine()
    asked, other = engine.ask([1, 2, 3], 50), engine.ask([4], 50)
    for _ in range(3):
        engine.step()
    record = engine.table.records[asked.index]
    record["generation"] += 1
    record["num_logprobs"], record["prompt_length"], record["max_tokens"] = 20, 1000, 1
    for _ in range(60):
        engine.step()
    assert engine.field(asked, "num_output") == 50
    engine.check_output(other)


def test_an_aborted_request_in_the_queue_takes_nobody_with_it():
    engine = Engine(running_max_req_size=1)
    asked = [engine.ask([token], 4) for token in range(6)]
    engine.step()
    for request in (asked[1], asked[4]):
        engine.release(request)
    finish_and_check(engine, [asked[i] for i in (0, 2, 3, 5)])


def test_a_preempted_request_may_leave_the_queue():
    engine = Engine(running_max_req_size=16, **TINY)
    asked = [engine.ask([token] * 10, 80) for token in range(4)]
    while not engine.metrics.total("preemptions"):
        engine.step()
    engine.release(asked.pop())
    finish_and_check(engine, asked)


def test_requests_start_in_order_of_arrival_and_the_preempted_come_first():
    engine = Engine(running_max_req_size=16, **TINY)
    asked = [engine.ask([token] * 10, 30 + token) for token in range(10)]
    order = []
    while engine.step():
        engine.now += 1.0
        order += [request for request in asked if engine.field(request, "started") and request not in order]
    assert order == asked
    finish_and_check(engine, asked)


def test_the_token_budget_of_a_step_holds_however_many_prefill():
    engine = Engine(batch_max_tokens=32, chunked_prefill_size=16)
    asked = [engine.ask(list(range(i, i + 40)), 20) for i in range(8)]
    finish_and_check(engine, asked)
    sizes = [len(plan.tokens) for plan in engine.plans]
    assert max(sizes) == 32
    chunks = [(plan, count) for plan in engine.plans for count in plan.counts.tolist()]
    assert max(count for _, count in chunks) == 16
    assert any((plan.counts == 1).any() and (plan.counts > 1).any() for plan in engine.plans), "decodes do not wait"


def test_decodes_run_in_every_step_while_others_prefill():
    engine = Engine(batch_max_tokens=16)
    first = engine.ask([1], 60)
    for _ in range(3):
        engine.step()
    second = engine.ask(list(range(60)) * 2, 2)
    finish_and_check(engine, [first, second])
    assert all(LAST_SAMPLED in plan.tokens for plan in engine.plans[1:50])


def test_metrics_show_what_is_there():
    engine = Engine(pool_tokens=500, running_max_req_size=2)
    asked = [engine.ask([token] * 10, 20) for token in range(3)]
    engine.step()
    total = engine.metrics.total
    assert total("kv_slots_total") == 500
    assert (total("queue_size"), total("batch_current_size")) == (1, 2)
    assert total("kv_slots_used") == engine.scheduler._pool.num_used >= 20
    # Each needs 29 slots, and the first to end keeps its own for one more step of the other.
    assert total("kv_slots_predicted_peak") == 29 + 29 + 1
    engine.run()
    assert (total("queue_size"), total("batch_current_size"), total("kv_slots_predicted_peak")) == (0, 0, 0)
    assert total("generated_tokens") == 60
    assert total("prompt_tokens") == 30
    assert total("kv_slots_used") == 0
    assert total("kv_slots_cached") == 3 * 29
    finish_and_check(engine, asked)


def test_a_result_that_is_not_due_is_refused_and_changes_nothing():
    engine = Engine()
    asked = engine.ask([1, 2, 3], 10)
    for _ in range(3):
        engine.step()
    engine.launch(engine.scheduler.plan())
    for again_or_early in (engine.results[0].step - 1, engine.results[1].step):
        with pytest.raises(AssertionError, match="each result comes once"):
            engine.scheduler.digest(dataclasses.replace(engine.results[0], step=again_or_early))
    assert engine.scheduler.num_outstanding == 2
    finish_and_check(engine, [asked])


def test_requests_are_told_of_when_they_come():
    engine = Engine(running_max_req_size=1)
    asked = [engine.ask([1, 2, 3], 2), engine.ask([4], 2)]
    told = engine.scheduler.drain()
    assert told == Progress(opened=references(*np.array([(one.index, one.generation) for one in asked]).T))
    finish_and_check(engine, asked)


def test_an_end_is_told_of_before_its_request_leaves():
    engine = Engine(check=False)
    asked = engine.ask([1, 2, 3], 1)
    told = []

    def on_written() -> None:
        engine.drain()
        told.append((engine.table.records[asked.index]["finish_reason"], len(engine.scheduler._running)))

    engine.launch(engine.scheduler.plan())
    engine.scheduler.digest(engine.results.popleft(), on_written=on_written)
    assert told == [(FinishReason.LENGTH, 1)]
    assert asked.told[-1] == 1
    assert engine.scheduler.drain() is None
    finish_and_check(engine, [asked])


def test_prompts_that_fill_steps_go_before_decodes_where_wanted():
    counts = {}
    for prompts_first in (False, True):
        engine = Engine(batch_max_tokens=16, prompts_first=prompts_first, disable_dynamic_prompt_cache=True)
        asked = [engine.ask([token] * 16, 10) for token in range(6)]
        finish_and_check(engine, asked)
        shapes = [plan.counts.tolist() for plan in engine.plans]
        counts[prompts_first] = len(shapes)
        assert (shapes[:6] == [[16]] * 6) == prompts_first
    assert counts[True] == 6 + 9 < counts[False]


@pytest.mark.parametrize("pool", [TINY, AMPLE], ids=["tiny", "ample"])
@pytest.mark.parametrize("tokens", [3, 16, 64])
def test_prompts_first_or_not_every_request_gets_what_it_gets_alone(tokens: int, pool: dict):
    engine = Engine(batch_max_tokens=tokens, prompts_first=True, running_max_req_size=16, **pool)
    finish_and_check(engine, load(engine, stops=(7, 9)))


@pytest.mark.parametrize("pool", [TINY, AMPLE], ids=["tiny", "ample"])
@pytest.mark.parametrize("small", [8, 24])
def test_where_prompts_are_spread_every_request_gets_what_it_gets_alone(small: int, pool: dict):
    engine = Engine(batch_max_tokens=64, prompts_first=True, small_tokens=small, running_max_req_size=6, **pool)
    finish_and_check(engine, load(engine))
    mixed = [len(plan.tokens) for plan in engine.plans if 1 in plan.counts and plan.counts.max() > 1]
    assert small in mixed
