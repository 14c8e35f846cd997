"""The bundled model on a GPU answers as it does on a CPU."""

import pytest

from lightllm import LLM, SamplingParams

pytestmark = pytest.mark.gpu


def answers(**settings):
    messages = [[{"role": "user", "content": f"What is {3 * i} + {i * i % 50}?"}] for i in range(60)]
    with LLM(max_total_token_num=20_000, **settings) as llm:
        outputs = llm.chat(messages, SamplingParams(max_tokens=32, temperature=0))
    return [output.outputs[0].token_ids for output in outputs]


def test_greedy_answers_equal_a_cpu_with_and_without_graphs():
    expected = answers(device="cpu")
    assert answers(device="cuda", data_type="float32") == expected
    assert answers(device="cuda", data_type="float32", disable_cudagraph=True, running_max_req_size=7) == expected
