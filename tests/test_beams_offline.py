"""Beam search and logprobs of prompts on a real engine, against transformers."""

import numpy as np
import pytest
import torch

from lightllm import LLM, SamplingParams
from lightllm.base.errors import RequestError
from tests.compute.execution import checkpoint

PROMPTS = [np.random.default_rng(seed).integers(0, checkpoint.VOCABULARY, 6 + seed).tolist() for seed in range(4)]
STOPS = [7, 30]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen3")
    return directory, checkpoint.make(directory)


@pytest.fixture(scope="module")
def llm(twin):
    # A pool that is too small for several searches at once.
    with LLM(
        str(twin[0]), tokenizer_mode="none", max_total_token_num=110, running_max_req_size=12, device="cpu"
    ) as llm:
        yield llm


def expected(model, prompt: list[int], length: int, width: int, count: int, **options) -> list[list[int]]:
    """transformers' sequences, up to their stop tokens."""
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=length,
            num_beams=width,
            num_return_sequences=count,
            do_sample=False,
            eos_token_id=STOPS,
            pad_token_id=0,
            **options,
        )
    found = []
    for tokens in output[:, len(prompt) :].tolist():
        ends = [at for at, token in enumerate(tokens) if token in STOPS]
        found.append(tokens[: ends[0] + 1] if ends else tokens)
    return found


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize(
    ("width", "count", "length", "length_penalty"), [(2, 1, 15, 1.0), (4, 4, 20, 0.0), (5, 2, 12, 1.7)]
)
def test_beams_are_transformers_beams(twin, llm, width, count, length, length_penalty, early_stopping):
    params = SamplingParams(
        n=count, num_beams=width, max_tokens=length, length_penalty=length_penalty, early_stopping=early_stopping,
        stop_token_ids=STOPS, logprobs=0,
    )  # fmt: skip
    results = llm.generate(PROMPTS, params)
    for prompt, result in zip(PROMPTS, results, strict=True):
        options = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        whole = expected(twin[1], prompt, length, width, count, **options)
        assert [output.token_ids for output in result.outputs] == whole
        ends = ["stop" if tokens[-1] in STOPS else "length" for tokens in whole]
        assert [output.finish_reason for output in result.outputs] == ends
        for output in result.outputs:
            tokens = torch.tensor([prompt + output.token_ids])
            with torch.inference_mode():
                known = twin[1](tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            total = known.gather(1, tokens[0, len(prompt) :, None]).sum().item()
            assert output.cumulative_logprob == pytest.approx(total, abs=1e-3)


def test_a_search_that_never_fits_and_one_that_is_too_wide_are_refused(llm):
    for params, said in [
        (SamplingParams(num_beams=4, max_tokens=30), "for each of 4 beams"),
        (SamplingParams(num_beams=16, max_tokens=2), "at most 12"),
        (SamplingParams(num_beams=8, max_tokens=2, stop_token_ids=list(range(20))), "fewer beams"),
    ]:
        with pytest.raises(RequestError, match=said):
            llm.generate(PROMPTS[0], params)


def test_prompt_logprobs_are_transformers_logprobs(twin, llm):
    with torch.inference_mode():
        truth = twin[1](torch.tensor([PROMPTS[3]])).logits[0].log_softmax(-1)
    for _ in range(2):  # the second time all of the prompt is in the prefix tree
        places = llm.generate(PROMPTS[3], SamplingParams(max_tokens=1, prompt_logprobs=2))[0].prompt_logprobs
        assert places[0] is None
        for at, place in enumerate(places[1:]):
            token = PROMPTS[3][at + 1]
            assert place[token].logprob == pytest.approx(truth[at, token].item(), abs=1e-4)
            assert [one for one in place if place[one].rank == 1] == [int(truth[at].argmax())]
