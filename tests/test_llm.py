"""The offline API on a real engine with random weights: what goes in comes out, whatever happens."""

import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lightllm import LLM, SamplingParams
from lightllm.base.errors import ConfigError, EngineDeadError, RequestError
from tests import tiny_checkpoint

SETTINGS = {"load_format": "dummy", "max_total_token_num": 4000, "device": "cpu"}
GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(checkpoint):
    # Fewer records than the tests have prompts: they are fed as places become free.
    settings = {"running_max_req_size": "4", "max_queued_requests": 1, "schedule_policy": "priority"}
    with LLM(str(checkpoint), **SETTINGS, **settings) as llm:
        yield llm


def ids_of(results) -> list[list[int]]:
    return [output.token_ids for result in results for output in result.outputs]


def test_all_forms_of_a_prompt_are_one(llm):
    tokens = llm.generate("The quick brown fox", GREEDY)[0].prompt_token_ids
    expected = ids_of(llm.generate([tokens], GREEDY))
    for form in ("The quick brown fox", ["The quick brown fox"], tokens, {"prompt_token_ids": tokens}):
        assert ids_of(llm.generate(form, GREEDY)) == expected
    assert ids_of(llm.generate([{"prompt": "The quick brown fox"}, tokens], GREEDY)) == expected * 2
    assert llm.generate([], GREEDY) == []


def test_results_are_in_order_and_as_long_as_asked(llm):
    prompts = [[5 + i, 6, 7] for i in range(20)]
    params = [SamplingParams(max_tokens=1 + 7 * i % 23, temperature=0, ignore_eos=True) for i in range(20)]
    results = llm.generate(prompts, params, use_tqdm=True)
    assert [result.prompt_token_ids for result in results] == prompts
    assert [len(ids) for ids in ids_of(results)] == [one.max_tokens for one in params]
    assert {output.finish_reason for result in results for output in result.outputs} == {"length"}
    alone = [ids_of(llm.generate(prompt, one))[0] for prompt, one in zip(prompts[:3], params, strict=False)]
    assert ids_of(results)[:3] == alone


def test_the_smallest_priority_goes_first_and_results_stay_in_order(llm, monkeypatch):
    client, submitted = llm._engine.service.client, []
    submit = client.submit

    def note(tokens, params, *, terms, **more):
        submitted.append((*tokens, terms.priority))
        return submit(tokens, params, terms=terms, **more)

    monkeypatch.setattr(client, "submit", note)
    results = llm.generate([[5], [6], [7]], GREEDY, priority=[3, -1, 0])
    assert list(dict.fromkeys(submitted)) == [(6, -1), (7, 0), (5, 3)], "some more than once, where the queue was full"
    assert [result.prompt_token_ids for result in results] == [[5], [6], [7]]
    with pytest.raises(RequestError, match="2 priorities for 1 prompts"):
        llm.generate([5], GREEDY, priority=[1, 2])
    with pytest.raises(RequestError, match="priority=5000 is not allowed"):
        llm.generate([5], GREEDY, priority=5000)


def test_answers_that_are_known_to_be_longer_begin_first(llm, monkeypatch):
    client, submitted = llm._engine.service.client, []
    submit = client.submit

    def note(tokens, params, **more):
        submitted.extend(tokens)
        return submit(tokens, params, **more)

    monkeypatch.setattr(client, "submit", note)
    known = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (3, 9, 6)]
    may_stop = [SamplingParams(max_tokens=n, ignore_eos=n > 20, stop_token_ids=[5]) for n in (20, 30)]
    llm.generate([[5], [6], [7], [8], [9]], [*may_stop, *known])
    assert list(dict.fromkeys(submitted)) == [8, 9, 7, 5, 6]
    submitted.clear()
    llm.generate([[5], [6], [7]], known, priority=[0, 1, 0])
    assert list(dict.fromkeys(submitted)) == [7, 5, 6], "priority counts before length"


def test_samples_come_in_order_and_repeat_with_their_seed(llm):
    params = SamplingParams(n=3, seed=7, max_tokens=5, ignore_eos=True)
    first, second = (llm.generate("seeds", params)[0] for _ in range(2))
    assert [output.index for output in first.outputs] == [0, 1, 2]
    assert ids_of([first]) == ids_of([second])
    assert len({tuple(ids) for ids in ids_of([first])}) > 1


def test_best_of_gives_the_samples_that_are_likeliest_by_token(llm):
    params = {"seed": 7, "max_tokens": 5, "stop_token_ids": list(range(0, 700, 4))}  # of different lengths
    everything = llm.generate("seeds", SamplingParams(n=5, logprobs=0, **params))[0].outputs
    assert len({len(output.token_ids) for output in everything}) > 1
    ranked = sorted(everything, key=lambda output: -output.cumulative_logprob / len(output.token_ids))
    best = llm.generate("seeds", SamplingParams(n=2, best_of=5, **params))
    assert [output.index for output in best[0].outputs] == [0, 1]
    assert ids_of(best) == [output.token_ids for output in ranked[:2]]


def test_logprobs_are_of_the_chosen_token_and_the_likeliest(llm):
    output = llm.generate("a", SamplingParams(max_tokens=4, logprobs=2, seed=1, ignore_eos=True))[0].outputs[0]
    assert len(output.logprobs) == 4
    for token, place in zip(output.token_ids, output.logprobs, strict=True):
        assert 2 <= len(place) <= 3
        assert sorted(one.rank for one in place.values() if one.rank) == [1, 2]
        assert all(one.logprob <= 0 for one in place.values())
        assert token in place
    chosen = [place[token].logprob for token, place in zip(output.token_ids, output.logprobs, strict=True)]
    assert math.isclose(output.cumulative_logprob, sum(chosen), rel_tol=1e-5)
    assert llm.generate("a", GREEDY)[0].outputs[0].logprobs is None


def test_wishes_for_tokens_hold_beside_one_another(llm):
    common = {"max_tokens": 12, "ignore_eos": True, "seed": 1}
    plain = llm.generate("wishes", SamplingParams(**common))[0].outputs[0].token_ids
    allowed = sorted(set(plain))[:4]
    pairs = [list(pair) for pair in itertools.pairwise(plain)]
    asked = [
        {},
        {"allowed_token_ids": allowed, "n": 3, "logprobs": 1},
        {"first_token_ids": [allowed[0]], "seed": 2},
        {"logit_bias": {plain[0]: 100}, "temperature": 0.5},
        {"bad_words_token_ids": pairs[:1]},
        {"bad_words": ["wish"], "logit_bias": dict.fromkeys(plain, -100)},
        {"typical_p": 0.01},
    ]
    results = llm.generate(["wishes"] * len(asked), [SamplingParams(**(common | one)) for one in asked])
    same, few, first, biased, parted, others, typical = ([out.token_ids for out in one.outputs] for one in results)
    assert same == [plain]
    assert all(set(ids) <= set(allowed) for ids in few)
    assert len({tuple(ids) for ids in few}) == 3
    of_chosen = [
        place[token].logprob
        for out in results[1].outputs
        for token, place in zip(out.token_ids, out.logprobs, strict=True)
    ]
    assert max(of_chosen) < -3, "logprobs are of the raw logits"
    assert first[0][0] == allowed[0]
    assert set(biased[0]) == {plain[0]}
    assert parted[0][0] == plain[0]
    assert parted[0][1] != plain[1]
    assert not set(others[0]) & set(plain)
    assert typical != [plain]


def test_a_prompt_is_cut_as_its_request_says(llm):
    result = llm.generate([[5, 6, 7, 8]], SamplingParams(truncate_prompt_tokens=2, max_tokens=1))[0]
    assert result.prompt_token_ids == [7, 8]
    with pytest.raises(RequestError, match="not in the vocabulary"):
        llm.generate("a", SamplingParams(logit_bias={10**6: 1.0}))


def test_prompt_logprobs_are_those_of_the_same_tokens_when_they_are_sampled(llm):
    prompt = list(range(40, 60))
    sampled = llm.generate(prompt, SamplingParams(max_tokens=8, logprobs=3, temperature=0, ignore_eos=True))[0].outputs[
        0
    ]
    whole = prompt + sampled.token_ids
    for n in (1, 2):  # the second time all of it is in the prefix tree
        result = llm.generate(whole, SamplingParams(n=n, max_tokens=1, prompt_logprobs=3))[0]
        assert len(result.outputs) == n
        assert result.prompt_logprobs[0] is None
        assert [token in place for token, place in zip(whole[1:], result.prompt_logprobs[1:], strict=True)]
        for expected, got in zip(sampled.logprobs, result.prompt_logprobs[len(prompt) :], strict=True):
            assert got.keys() == expected.keys()
            for token in expected:
                assert math.isclose(got[token].logprob, expected[token].logprob, abs_tol=1e-4)
                assert got[token].rank == expected[token].rank
    assert llm.generate(prompt, GREEDY)[0].prompt_logprobs is None


def test_a_healed_prompt_goes_on_with_its_last_tokens_text(llm):
    prompt = "The quick brown f"
    params = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    plain = llm.generate(prompt, SamplingParams(**params))[0]
    last = llm._engine.service.tokenizer.token_text(plain.prompt_token_ids[-1])
    healed = llm.generate(prompt, SamplingParams(token_healing=True, **params))[0]
    assert healed.prompt_token_ids == plain.prompt_token_ids[:-1]
    first = llm._engine.service.tokenizer.token_text(healed.outputs[0].token_ids[0])
    assert first.startswith(last)
    assert healed.outputs[0].text.startswith(first[len(last) :])


def test_the_first_token_is_one_of_those_allowed(llm):
    for n in (1, 3):
        params = SamplingParams(n=n, max_tokens=3, first_token_ids=[77, 80], ignore_eos=True, seed=3)
        outputs = llm.generate("a", params)[0].outputs
        assert {output.token_ids[0] for output in outputs} <= {77, 80}
        assert not {token for output in outputs for token in output.token_ids[1:]} <= {77, 80}


def test_a_stop_string_ends_the_text_before_itself(llm):
    whole = llm.generate("stop", SamplingParams(max_tokens=30, temperature=0, ignore_eos=True))[0].outputs[0].text
    stop = next(part for part in (whole[i : i + 2] for i in range(4, len(whole))) if "\ufffd" not in part)
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, stop=stop)
    output = llm.generate("stop", params)[0].outputs[0]
    assert output.text == whole[: whole.index(stop)]
    assert (output.finish_reason, output.stop_reason) == ("stop", stop)


def test_chat_renders_the_template(llm):
    conversation = [{"role": "user", "content": "Hello"}]
    one = llm.chat(conversation, GREEDY)
    assert one[0].prompt == "<|start|>user: Hello<|end|><|start|>"
    assert ids_of(llm.chat([conversation, conversation], GREEDY)) == ids_of(one) * 2
    assert ids_of(llm.generate({"prompt_token_ids": one[0].prompt_token_ids}, GREEDY)) == ids_of(one)


def test_a_long_shared_prompt_is_found_again(llm):
    prompt = list(range(100, 300))
    llm.generate(prompt, GREEDY)
    assert llm.generate(prompt, GREEDY)[0].num_cached_tokens >= 190


@pytest.mark.parametrize(
    ("prompt", "params", "said"),
    [
        ([[5], [10**6]], GREEDY, "1000000"),
        ([[5], list(range(600))], GREEDY, "512"),
        ([""], GREEDY, "empty"),
        ([{"text": "x"}], GREEDY, "prompt_token_ids"),
        ([[5, 6.7]], GREEDY, "6.7"),
        ([[5, "6"]], GREEDY, "'6'"),
        ([[5], [6]], [GREEDY], "1 sampling_params for 2 prompts"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused_and_the_engine_goes_on(llm, prompt, params, said):
    with pytest.raises(RequestError, match=said):
        llm.generate(prompt, params)
    assert not llm._engine.service.client.open_requests
    assert len(ids_of(llm.generate([5], GREEDY))[0]) == 6


@pytest.fixture
def ctrl_c():
    """What Python does at an interrupt, though whoever runs the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_gives_up_the_call_and_nothing_else(llm):
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[5 + i % 500] for i in range(2000)], SamplingParams(max_tokens=400, ignore_eos=True))
    assert not llm._engine.service.client.open_requests
    assert len(ids_of(llm.generate([5], GREEDY))[0]) == 6


def test_a_dead_worker_is_an_error_and_not_a_hang(checkpoint):
    llm = LLM(str(checkpoint), **SETTINGS, tokenizer_mode="none")
    assert llm.generate([5], GREEDY)[0].outputs[0].text == ""
    with pytest.raises(RequestError, match="tokenizer_mode=none"):
        llm.generate("text", GREEDY)
    with pytest.raises(RequestError, match="priority=1 has no effect with --schedule_policy=fcfs"):
        llm.generate([5], GREEDY, priority=1)
    worker = llm._engine._supervisor._crew.workers[0].pid
    threading.Timer(0.3, os.kill, (worker, signal.SIGKILL)).start()
    with pytest.raises(EngineDeadError, match=r"worker 0 .* SIGKILL"):
        llm.generate([[5 + i] for i in range(100)], SamplingParams(max_tokens=500, ignore_eos=True))
    with pytest.raises(EngineDeadError):
        llm.generate([5], GREEDY)
    llm.close()
    llm.close()
    with pytest.raises(EngineDeadError, match="closed"):
        llm.generate([5], GREEDY)


def test_a_restarted_engine_answers_the_next_call(checkpoint):
    with LLM(str(checkpoint), **SETTINGS, on_failure="restart") as llm:
        before = ids_of(llm.generate([5], GREEDY))
        os.kill(llm._engine._supervisor._crew.workers[0].pid, signal.SIGKILL)
        time.sleep(0.5)
        assert ids_of(llm.generate([5], GREEDY)) == before


SCRIPT = """
import sys
from lightllm import LLM, SamplingParams
llm = LLM(sys.argv[1], load_format="dummy", max_total_token_num=4000, device="cpu")
crew = llm._engine._supervisor._crew
print(*[child.pid for child in crew.children])
print(len(llm.generate("x", SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0].token_ids))
if sys.argv[2] == "raise":
    raise ValueError("a mistake of the user's")
"""


@pytest.mark.parametrize("how", ["end", "raise"])
def test_a_script_needs_no_main_guard_and_leaves_nothing(checkpoint, tmp_path, how):
    (tmp_path / "lightllm_user.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "lightllm_user.py"), str(checkpoint), how],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    pids, count = done.stdout.splitlines()
    assert count == "3"
    assert not [pid for pid in pids.split() if Path(f"/proc/{pid}").exists()]
    assert done.returncode == (0 if how == "end" else 1)
    assert bool(done.stderr) == (how == "raise"), done.stderr
    assert not re.search("Exception ignored|atexit", done.stderr)


def test_a_wrong_setting_is_named():
    with pytest.raises(ConfigError, match="max_tokens_total"):
        LLM("/nowhere", max_tokens_total=5)
    with pytest.raises(ConfigError, match="/nowhere"):
        LLM("/nowhere")


def test_a_failed_start_is_an_error_with_its_cause(checkpoint):
    with pytest.raises(EngineDeadError, match=r"worker 0: .*--max_total_token_num|worker 0: .*cuda"):
        LLM(str(checkpoint), load_format="dummy", device="cuda")
