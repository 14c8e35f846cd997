"""Pools of fewer bits behind the scheduler: chunks, shared prefixes, preemptions and ranks change no answer."""

import pytest

from lightllm import LLM, SamplingParams
from tests.compute.models.twins import VOCABULARY, make
from tests.compute.quant.test_formats import MODELS

AMPLE = {"max_total_token_num": 4000, "disable_dynamic_prompt_cache": True}
# So small that the watermark policy, which does not look ahead, runs out and must preempt.
SMALL = {"max_total_token_num": 300, "max_req_total_len": 300, "admission": "watermark", "watermark": 1.0}
CHUNKS = {"chunked_prefill_size": 16}
TOKENS = 50


def answers(directory, kind: str, **settings) -> list[tuple[list[int], list[float]]]:
    """Tokens and their logprobs, likeliest and drawn twice, of 8 prompts that share their first 20 tokens or 7."""
    shared = [3 * i % VOCABULARY for i in range(20)]
    prompts = [shared[: 20 if i % 2 else 7] + [10 + i, *range(20, 25)] for i in range(8)]
    common = {"ignore_eos": True, "logprobs": 0}
    greedy = SamplingParams(**common, max_tokens=TOKENS, temperature=0)
    drawn = SamplingParams(**common, max_tokens=TOKENS // 4, n=2, seed=1)
    with LLM(str(directory), device="cpu", tokenizer_mode="none", kv_type=kind, **settings) as llm:
        outputs = [*llm.generate(prompts, greedy), *llm.generate(prompts, drawn)]
    return [
        (one.token_ids, [place[token].logprob for token, place in zip(one.token_ids, one.logprobs, strict=True)])
        for output in outputs
        for one in output.outputs
    ]


@pytest.mark.parametrize(("model", "kind", "ranks"), [("qwen2", "int4", 2), ("deepseek_v3", "fp8", 1)])
def test_preempted_requests_that_share_prefixes_give_what_they_give_alone(model, kind, ranks, tmp_path):
    directory = make(MODELS[model](), tmp_path).directory
    expected = answers(directory, kind, running_max_req_size=1, **AMPLE)
    assert len({tuple(tokens) for tokens, _ in expected[:8]}) == 8
    got = answers(directory, kind, tp=ranks, **SMALL, **CHUNKS)
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in expected]
    for (_, one), (_, other) in zip(got, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
