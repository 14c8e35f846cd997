"""Answers of the bundled model under grammars, at temperature 1: all of them are what was asked for."""

import json
import os
import re
import signal

import jsonschema
import pytest

from lightllm import LLM, SamplingParams
from lightllm.base.errors import RequestError
from lightllm.base.grammar import ConstString, ContextFree, Either, JsonSchema, Regex, Sequence
from lightllm.base.metrics import Metrics
from tests.serving.grammar import schemas
from tests.serving.grammar.engines import needs_xgrammar

SETTINGS = {"device": "cpu", "running_max_req_size": 32}
PROMPT = "A form, filled in: "


@pytest.fixture(scope="module")
def llm():
    with LLM(**SETTINGS, max_total_token_num=60_000) as llm:
        yield llm


def under_schemas(seeds, **params) -> list[SamplingParams]:
    # The penalty ends what a schema does not bound and a small model would go on with for ever: decimals, say.
    common = {"temperature": 1.0, "max_tokens": 1500, "frequency_penalty": 0.1} | params
    return [SamplingParams(seed=seed, grammar=JsonSchema(schemas.make(seed)), **common) for seed in seeds]


def texts(results) -> list[str]:
    outputs = [output for result in results for output in result.outputs]
    assert {output.finish_reason for output in outputs} == {"stop"}
    return [output.text for output in outputs]


def check(results, seeds) -> None:
    for seed, text in zip(seeds, texts(results), strict=True):
        jsonschema.validate(json.loads(text), schemas.make(seed), jsonschema.Draft202012Validator)


def test_every_answer_satisfies_its_schema(llm):
    seeds = range(60)
    check(llm.generate([PROMPT] * len(seeds), under_schemas(seeds)), seeds)


@pytest.mark.slow
def test_every_answer_satisfies_its_schema_of_many(llm):
    seeds = range(1000, 1400)
    check(llm.generate([PROMPT] * len(seeds), under_schemas(seeds)), seeds)


def test_answers_do_not_depend_on_who_runs_beside_them(llm):
    params = [
        SamplingParams(temperature=1.0, seed=seed, max_tokens=60, grammar=Regex("[a-p]{20}")) for seed in range(5)
    ]
    together = texts(llm.generate([PROMPT] * 5, params))
    alone = [texts(llm.generate(PROMPT, one))[0] for one in params]
    assert together == alone


def test_samples_and_logprobs_and_stops_go_with_grammars(llm):
    params = SamplingParams(temperature=1.0, seed=3, n=4, logprobs=2, max_tokens=60, grammar=Regex("[ab]{8}x[ab]{8}"))
    (result,) = llm.generate(PROMPT, params)
    assert len({output.text for output in result.outputs}) > 1
    for output in result.outputs:
        assert re.fullmatch("[ab]{8}x[ab]{8}", output.text)
        assert len(output.logprobs) == len(output.token_ids)
    stopped = SamplingParams(temperature=1.0, seed=3, stop=["x"], max_tokens=60, grammar=params.grammar)
    (output,) = llm.generate(PROMPT, stopped)[0].outputs
    assert re.fullmatch("[ab]{8}", output.text)
    assert (output.finish_reason, output.stop_reason) == ("stop", "x")


def test_a_complete_answer_ends_even_if_it_is_shorter_than_asked(llm):
    choice = Either([ConstString("red"), ConstString("blue")])
    params = SamplingParams(temperature=1.0, min_tokens=30, max_tokens=60, grammar=choice)
    assert set(texts(llm.generate([PROMPT] * 4, params))) <= {"red", "blue"}
    longer = SamplingParams(temperature=1.0, seed=1, min_tokens=12, max_tokens=90, grammar=Regex("[a-f]{1,60}"))
    (output,) = llm.generate(PROMPT, longer)[0].outputs
    assert len(output.token_ids) > 12


def test_parameters_that_forbid_all_that_is_allowed_end_their_request_alone(llm):
    blue = llm.generate("blue", SamplingParams(max_tokens=1))[0].prompt_token_ids
    impossible = SamplingParams(max_tokens=9, allowed_token_ids=blue, grammar=ConstString("red"))
    fine = SamplingParams(max_tokens=20, grammar=ConstString("red"))
    first, second = llm.generate([PROMPT] * 2, [impossible, fine])
    assert first.outputs[0].finish_reason == "grammar"
    assert (second.outputs[0].text, second.outputs[0].finish_reason) == ("red", "stop")


def test_what_cannot_be_enforced_is_refused_before_it_runs(llm):
    with pytest.raises(RequestError, match="uniqueItems"):
        llm.generate(PROMPT, SamplingParams(grammar=JsonSchema({"type": "array", "uniqueItems": True})))


def test_a_lost_process_costs_nobody_an_answer(llm):
    """Killed twice while answers are written."""
    long = Sequence([Regex("[a-p]{80}"), ConstString(" end")])
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=400, grammar=long) for seed in range(8)]
    expected = texts(llm.generate([PROMPT] * 8, params))
    supervisor = llm._engine._supervisor
    metrics = Metrics(supervisor._segments.metrics, 0)
    before, killed = metrics.total("masks_made"), []

    def kill_sometimes() -> None:
        if (process := supervisor._crew.engine.get("grammar")) is None:
            return  # the next one is not there yet
        pid = process.pid
        if len(killed) < 2 and pid not in killed and metrics.total("masks_made") > before + 80 * (1 + len(killed)):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    wait = llm._engine.wait
    llm._engine.wait = lambda: (kill_sometimes(), wait())[1]
    try:
        assert texts(llm.generate([PROMPT] * 8, params)) == expected
    finally:
        llm._engine.wait = wait
    assert len(killed) == 2


def test_preemption_and_chunks_change_no_answer(llm):
    prompts = [f"{i}. {PROMPT}" for i in range(8)]
    grammar = Regex("([a-p]{5} ){12}")
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=100, grammar=grammar) for seed in range(8)]
    expected = texts(llm.generate(prompts, params))
    with LLM(**SETTINGS, max_total_token_num=220, chunked_prefill_size=4, admission="watermark") as small:
        assert texts(small.generate(prompts, params)) == expected
        assert Metrics(small._engine._supervisor._segments.metrics, 0).total("preemptions") > 0


def test_ranks_agree():
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=60, grammar=Regex("[ab]{9}")) for seed in range(4)]
    with LLM(**SETTINGS, tp=2, max_total_token_num=20_000) as two:
        assert all(re.fullmatch("[ab]{9}", text) for text in texts(two.generate([PROMPT] * 4, params)))


@needs_xgrammar
def test_xgrammar_does_the_same():
    """With samples, preemption and chunks of prompts."""
    seeds = [seed for seed in range(28) if "allOf" not in json.dumps(schemas.make(seed))]
    small = {"max_total_token_num": 1000, "chunked_prefill_size": 4, "admission": "watermark"}
    with LLM(**SETTINGS, **small, output_constraint_mode="xgrammar") as llm:
        metrics = Metrics(llm._engine._supervisor._segments.metrics, 0)
        check(llm.generate([PROMPT] * len(seeds), under_schemas(seeds, max_tokens=900)), seeds)
        several = SamplingParams(temperature=1.0, seed=3, n=40, max_tokens=100, grammar=Regex("([a-p]{5} ){12}"))
        outputs = texts(llm.generate(PROMPT, several))
        assert len(set(outputs)) > 1
        assert all(re.fullmatch("([a-p]{5} ){12}", text) for text in outputs)
        assert metrics.total("preemptions") > 0
        with pytest.raises(RequestError, match="uniqueItems.*llguidance"):
            llm.generate(PROMPT, SamplingParams(grammar=JsonSchema({"type": "array", "uniqueItems": True})))
        with pytest.raises(RequestError, match="GBNF"):
            llm.generate(PROMPT, SamplingParams(grammar=ContextFree('start: "a"')))
        assert metrics.total("masks_missing") == 0
