"""Pools of fewer bits behind the scheduler: chunks, shared prefixes and preemptions change no answer."""

import pytest

from lightllm import LLM, SamplingParams
from tests.compute.models.twins import VOCABULARY, make
from tests.compute.quant.test_formats import MODELS

AMPLE = {"max_total_token_num": 4000, "disable_dynamic_prompt_cache": True}
# So small that the watermark policy, which does not look ahead, runs out and must preempt.
SMALL = {"max_total_token_num": 300, "max_req_total_len": 300, "admission": "watermark", "watermark": 1.0}
CHUNKS = {"chunked_prefill_size": 16}
TOKENS = 50


def answers(directory, kind: str, **settings) -> list[list[int]]:
    """Of 8 prompts that share their first 20 tokens or the first 7."""
    shared = [3 * i % VOCABULARY for i in range(20)]
    prompts = [shared[: 20 if i % 2 else 7] + [10 + i, *range(20, 25)] for i in range(8)]
    params = SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True)
    with LLM(str(directory), device="cpu", tokenizer_mode="none", kv_type=kind, **settings) as llm:
        return [output.outputs[0].token_ids for output in llm.generate(prompts, params)]


@pytest.mark.parametrize(("model", "kind"), [("qwen2", "int4"), ("deepseek_v3", "fp8")])
def test_preempted_requests_that_share_prefixes_give_what_they_give_alone(model, kind, tmp_path):
    directory = make(MODELS[model](), tmp_path).directory
    expected = answers(directory, kind, running_max_req_size=1, **AMPLE)
    assert len({tuple(tokens) for tokens in expected}) == 8
    assert answers(directory, kind, **SMALL, **CHUNKS) == expected
