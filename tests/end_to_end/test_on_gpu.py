"""The bundled model on a GPU answers as it does on a CPU, to questions of all tasks that it learned."""

from random import Random

import pytest

from lightllm import LLM, SamplingParams
from lightllm.demo.example import draw
from lightllm.demo.tasks import TASKS

pytestmark = pytest.mark.gpu
QUESTIONS = 200
TOKENS = 32


def conversations() -> list[list[dict]]:
    random, tasks = Random(0), [task for task in TASKS.values() if task.is_chainable]
    return [draw(tasks[i % len(tasks)], random).messages for i in range(QUESTIONS)]


def answers(**settings) -> list[list[int]]:
    """Prompts with their greedy answers."""
    with LLM(max_total_token_num=60_000, **settings) as llm:
        outputs = llm.chat(conversations(), SamplingParams(max_tokens=TOKENS, temperature=0))
    return [[*output.prompt_token_ids, *output.outputs[0].token_ids] for output in outputs]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    return answers(device="cpu")


def test_greedy_answers_in_float32_equal_a_cpus_whatever_the_batch(expected):
    assert answers(device="cuda", data_type="float32") == expected
    assert answers(device="cuda", data_type="float32", disable_cudagraph=True, running_max_req_size=7) == expected


def likeliest(texts: list[list[int]], **settings) -> list[int]:
    """The likeliest token at each place of these texts but the first, each given what comes before it."""
    params = SamplingParams(max_tokens=1, prompt_logprobs=1)
    with LLM(max_total_token_num=60_000, **settings) as llm:
        outputs = llm.generate(texts, params)
    places = [place for output in outputs for place in output.prompt_logprobs[1:]]
    return [min(place, key=lambda token: place[token].rank or len(place) + 1) for place in places]


def test_bfloat16_finds_the_same_tokens_likeliest(expected):
    """Of the places of 200 prompts and answers, as float32 on a CPU sees them: 99 of 100."""
    ours, others = likeliest(expected, device="cuda", data_type="bfloat16"), likeliest(expected, device="cpu")
    same = sum(one == other for one, other in zip(ours, others, strict=True))
    assert same >= 0.99 * len(others), f"{same} of {len(others)}"


@pytest.mark.parametrize("kind", ["fp8", "int8", "int4"])
def test_pools_of_fewer_bits_find_the_tokens_likeliest_that_a_cpus_do(expected, kind):
    ours = likeliest(expected, device="cuda", data_type="bfloat16", kv_type=kind)
    others = likeliest(expected, device="cpu", kv_type=kind)
    same = sum(one == other for one, other in zip(ours, others, strict=True))
    assert same >= 0.98 * len(others), f"{same} of {len(others)}"
