import math
import sys

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lightllm.base.errors import ConfigError
from lightllm.base.step import LAST_SAMPLED
from lightllm.compute.execution import stepper
from lightllm.compute.execution.runner import Runner
from tests.compute.execution.checkpoint import LONGEST, VOCABULARY, config, make
from tests.compute.execution.plans import Run, decodes, plan

GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen3")
    return directory, make(directory)


@pytest.fixture(scope="module")
def runner(checkpoint):
    made = Runner(config(checkpoint[0]))
    torch.set_num_threads(1)
    return made


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()


def scattered(count, seed=0):
    return np.random.default_rng(seed).permutation(1000)[:count].tolist()


def continued(runner, row, start, slots, count):
    """`count` tokens sampled one by one after `start` tokens of a row have run."""
    return [int(runner.step(decodes([row], [start + i], [slots[start + i]])).tokens[0]) for i in range(count)]


def generate(runner, tokens, slots, count, parameters, *, row=0, chunks=(), stop_tokens=()):
    """A request alone on the runner: its prompt in these chunks (whole if none), then decodes."""
    begins, start, sampled = {**parameters, "prompt_length": len(tokens)}, 0, -1
    for size in [*chunks, len(tokens) - sum(chunks)]:
        stop = start + size
        part = Run(row, start, tokens[start:stop], slots[start:stop], samples=stop == len(tokens))
        if start == 0:
            part.begins, part.stop_tokens = begins, stop_tokens
        sampled, start = int(runner.step(plan(part)).tokens[0]), stop
        assert (sampled >= 0) == part.samples
    return [sampled, *continued(runner, row, len(tokens), slots, count - 1)]


def expected(model, tokens, count, processors=()):
    """transformers' greedy continuation."""
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            max_new_tokens=count,
            do_sample=False,
            logits_processor=LogitsProcessorList(processors),
        )
    return output[0, len(tokens) :].tolist()


@pytest.mark.parametrize("chunks", [(), (5, 1, 9)], ids=["whole", "chunked"])
def test_greedy_generation_equals_transformers(checkpoint, runner, chunks):
    tokens = prompt(23)
    assert generate(runner, tokens, scattered(60), 20, GREEDY, chunks=chunks) == expected(checkpoint[1], tokens, 20)


def test_interleaved_sequences_equal_transformers(checkpoint, runner):
    first, second, slots = prompt(12), prompt(30, seed=1), scattered(100)
    mine, others = slots[:40], slots[40:]
    got = {7: [], 2: []}

    def step(*parts):
        made = plan(*parts)
        for row, token in zip(made.rows.tolist(), runner.step(made).tokens.tolist(), strict=True):
            if token >= 0:
                got[row].append(token)

    greedy = [{**GREEDY, "prompt_length": len(tokens)} for tokens in (first, second)]
    step(Run(7, 0, first, mine[:12], begins=greedy[0]), Run(2, 0, second[:8], others[:8], False, begins=greedy[1]))
    step(Run(2, 8, second[8:25], others[8:25], False), Run(7, 12, [LAST_SAMPLED], mine[12:13]))
    step(Run(7, 13, [LAST_SAMPLED], mine[13:14]), Run(2, 25, second[25:], others[25:30]))
    for i in range(5):
        parts = [Run(7, 14 + i, [LAST_SAMPLED], [mine[14 + i]]), Run(2, 30 + i, [LAST_SAMPLED], [others[30 + i]])]
        step(*parts[:: 1 if i % 2 else -1])
    assert got[7] == expected(checkpoint[1], first, 8)
    assert got[2] == expected(checkpoint[1], second, 6)


def test_a_prefix_is_shared_through_the_slot_table(checkpoint, runner):
    common, slots = prompt(20), scattered(200)
    generate(runner, common, slots, 3, GREEDY)
    tokens = common + prompt(7, seed=2)
    mine = slots[:20] + slots[100:120]
    part = Run(1, 20, tokens[20:], mine[:27], told=0, begins={**GREEDY, "prompt_length": 27})
    sampled = int(runner.step(plan(part)).tokens[0])
    assert [sampled, *continued(runner, 1, 27, mine, 5)] == expected(checkpoint[1], tokens, 6)


def test_repetition_penalty_equals_transformers(checkpoint, runner):
    tokens = prompt(15)
    got = generate(runner, tokens, scattered(60), 20, {**GREEDY, "repetition_penalty": 1.4}, chunks=(6,))
    assert got == expected(checkpoint[1], tokens, 20, [RepetitionPenaltyLogitsProcessor(1.4)])


def test_penalties_survive_preemption_and_shared_prefixes(checkpoint, runner):
    tokens, slots = prompt(15), scattered(200)
    penalties = {**GREEDY, "repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4}
    whole = generate(runner, tokens, slots, 20, penalties)
    half = generate(runner, tokens, slots, 10, penalties)
    assert half == whole[:10]
    # Begins again in another row: 18 of its tokens were found in the tree, the others are computed anew.
    known, mine = tokens + half, slots[:18] + slots[100:130]
    part = Run(5, 18, known[18:], mine[:25], told=0, begins={**penalties, "prompt_length": 15})
    sampled = int(runner.step(plan(part)).tokens[0])
    assert [sampled, *continued(runner, 5, 25, mine, 9)] == whole[10:]


def test_top_k_of_one_is_greedy(checkpoint, runner):
    tokens = prompt(9)
    got = generate(runner, tokens, scattered(40), 10, {"temperature": 0.8, "top_k": 1, "seed": 5})
    assert got == expected(checkpoint[1], tokens, 10)


def test_samples_pass_transformers_filters(checkpoint, runner):
    tokens = prompt(9)
    parameters = {"temperature": 1.5, "top_k": 6, "top_p": 0.8, "seed": 11}
    got = generate(runner, tokens, scattered(60), 30, parameters)
    with torch.inference_mode():
        scores = checkpoint[1](torch.tensor([tokens + got])).logits[0, len(tokens) - 1 : -1]
    for warper in (TemperatureLogitsWarper(1.5), TopKLogitsWarper(6), TopPLogitsWarper(0.8)):
        scores = warper(None, scores)
    assert scores.gather(1, torch.tensor(got)[:, None]).isfinite().all()
    assert got != expected(checkpoint[1], tokens, 30)


def test_a_seeded_answer_does_not_depend_on_chunks_rows_slots_or_neighbours(runner):
    tokens, parameters = prompt(14), {"temperature": 1.0, "top_p": 0.95, "seed": 2**63 + 1}
    alone = generate(runner, tokens, scattered(40), 10, parameters)
    assert generate(runner, tokens, scattered(40, seed=3), 10, parameters, row=9, chunks=(3, 3)) == alone
    slots, rows = scattered(8 * 30, seed=4), range(20, 28)
    lines = [slots[i * 30 : (i + 1) * 30] for i in range(8)]
    begun = [{"temperature": 1.0, "seed": i, "prompt_length": 14} for i in range(8)]
    begun[3] |= parameters
    first = plan(*(Run(row, 0, tokens, line[:14], begins=b) for row, line, b in zip(rows, lines, begun, strict=True)))
    got = [int(runner.step(first).tokens[3])]
    for i in range(9):
        step = decodes(rows, [14 + i] * 8, [line[14 + i] for line in lines])
        got.append(int(runner.step(step).tokens[3]))
    assert got == alone


def test_min_tokens_holds_stop_tokens_back(checkpoint, runner):
    tokens = prompt(15)
    greedy = expected(checkpoint[1], tokens, 8)
    stop_tokens = [greedy[3], 10_000, greedy[0]]
    got = generate(runner, tokens, scattered(40), 8, {**GREEDY, "min_tokens": 6}, stop_tokens=stop_tokens)
    assert not set(got[:6]) & set(stop_tokens)
    assert generate(runner, tokens, scattered(40), 8, GREEDY) == greedy


def test_logprobs_are_of_the_raw_logits(checkpoint, runner):
    tokens, slots = prompt(15), scattered(100)
    with torch.inference_mode():
        truth = checkpoint[1](torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
    wanting = {"temperature": 2.0, "top_k": 3, "repetition_penalty": 2.0, "prompt_length": 15}
    result = runner.step(
        plan(
            Run(0, 0, tokens, slots[:15], begins={**wanting, "num_logprobs": 2}),
            Run(1, 0, tokens, slots[15:30], begins={**GREEDY, "prompt_length": 15}),
            Run(2, 0, tokens, slots[30:45], begins={**wanting, "num_logprobs": 4, "seed": 3}),
            Run(3, 0, tokens[:9], slots[45:54], False, begins={**wanting, "num_logprobs": 5}),
        )
    )
    assert result.logprobs.shape == (4,)
    assert result.top_tokens.shape == result.top_logprobs.shape == (4, 4)
    assert {x.dtype for x in (result.logprobs, result.top_logprobs)} == {np.dtype(np.float32)}
    assert result.tokens.dtype == result.top_tokens.dtype == np.int32
    for i in (0, 2):
        assert math.isclose(result.logprobs[i], truth[result.tokens[i]], abs_tol=1e-4)
        assert result.top_tokens[i].tolist() == truth.topk(4).indices.tolist()
        np.testing.assert_allclose(result.top_logprobs[i], truth.topk(4).values, atol=1e-4)
    assert result.tokens[3] == -1
    without = runner.step(decodes([1], [15], [slots[60]]))
    assert (without.logprobs.shape, without.top_tokens.shape, without.top_logprobs.shape) == ((0,), (0, 0), (0, 0))


def test_tokens_of_prompts_are_scored_in_parts_beside_others(checkpoint, runner, monkeypatch):
    monkeypatch.setattr(stepper, "SCORED_AT_ONCE", 7)
    first, second, slots = prompt(30), prompt(12, seed=1), scattered(100)
    begins = [{**GREEDY, "prompt_length": 30}, {**GREEDY, "prompt_length": 12}]

    def scored(made, places, successors):
        made.scored, made.successors = (np.array(x, np.int32) for x in (places, successors))
        made.num_score_logprobs = 3
        return runner.step(made)

    one = plan(Run(0, 0, first[:20], slots[:20], False, begins=begins[0]))
    two = plan(
        Run(0, 20, first[20:], slots[20:30]),
        Run(1, 0, second, slots[30:42], begins=begins[1]),
    )
    results = [
        scored(one, range(20), first[1:21]),
        scored(two, [*range(9), *range(10, 21)], [*first[21:], *second[1:]]),
    ]
    assert results[1].tokens.tolist() == [expected(checkpoint[1], tokens, 1)[0] for tokens in (first, second)]
    with torch.inference_mode():
        truths = [checkpoint[1](torch.tensor([tokens])).logits[0, :-1].log_softmax(-1) for tokens in (first, second)]
    truth = torch.cat(truths)
    got = [
        np.concatenate(parts)
        for parts in zip(*((r.scores, r.score_top_tokens, r.score_top_logprobs) for r in results), strict=True)
    ]
    successors = torch.tensor([*first[1:], *second[1:]])
    np.testing.assert_allclose(got[0], truth.gather(1, successors[:, None])[:, 0], atol=1e-4)
    assert got[1].tolist() == truth.topk(3).indices.tolist()
    np.testing.assert_allclose(got[2], truth.topk(3).values, atol=1e-4)
    assert got[1].dtype == np.int32


def test_a_step_that_samples_nothing(runner):
    result = runner.step(plan(Run(0, 0, prompt(5), scattered(5), False, begins=GREEDY), step=41))
    assert result.step == 41
    assert result.tokens.tolist() == [-1]


def calls_of_a_step(runner, batch, parameters):
    rows, length = range(batch), 3
    parts = [
        Run(row, 0, prompt(length), range(row * length, (row + 1) * length), begins={**parameters, "seed": row})
        for row in rows
    ]
    runner.step(plan(*parts))
    slots = [batch * length + row % 200 for row in rows]
    runner.step(decodes(rows, [length] * batch, slots))
    steady, count = decodes(rows, [length] * batch, slots), 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        runner.step(steady)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "parameters",
    [
        GREEDY,
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "presence_penalty": 0.5, "num_logprobs": 3},
    ],
    ids=["greedy", "drawn", "everything"],
)
def test_function_calls_of_a_decode_step_do_not_grow_with_the_batch(runner, parameters):
    few, many = (calls_of_a_step(runner, batch, parameters) for batch in (8, 256))
    assert many <= 1.2 * few


def test_the_pool_is_sized_by_what_memory_allows(checkpoint, monkeypatch):
    def pool(**others):
        return Runner(config(checkpoint[0], **{"max_total_token_num": None, **others}))

    sized = pool()
    assert sized.pool_tokens == 300 * LONGEST
    monkeypatch.setattr("lightllm.compute.execution.memory.available", lambda device: 3 << 20)
    assert [name.partition(",")[0] for name, _ in sized.memory] == ["weights", "KV pool"]
    weights, per_token = sized.memory[0][1], sized.memory[1][1] // sized.pool_tokens
    assert per_token == 4 + 2 * 2 * 2 * 16 * 4
    assert pool().pool_tokens == (0.9 * (3 << 20) - weights) // per_token
    monkeypatch.setattr("lightllm.compute.execution.memory.CPU_POOL_BYTES", 100_000)
    assert pool().pool_tokens == 100_000 // per_token
    with pytest.raises(ConfigError, match="--max_total_token_num=100000 needs"):
        pool(max_total_token_num=100_000)
    with pytest.raises(ConfigError, match="--mem_fraction=0.01"):
        pool(mem_fraction=0.01)


def test_a_pool_makes_room_for_graphs_that_are_larger_than_expected(checkpoint, monkeypatch):
    """As on a GPU, where it is known only when all graphs have been captured beside the pool."""
    runner = Runner(config(checkpoint[0]))
    runner.memory = []
    taken = iter([30 << 20, 80 << 20, 81 << 20])
    monkeypatch.setattr("lightllm.compute.execution.memory.kept_by", lambda make, device: next(taken))
    room, token_bytes = 200 << 20, 4 + 2 * 2 * 2 * 16 * 4
    monkeypatch.setattr(runner, "_config", config(checkpoint[0], max_total_token_num=None))
    monkeypatch.setattr(runner, "_num_rows", 1 << 20)
    for expected, of_graphs in ((40 << 20, 30 << 20), (40 << 20, 81 << 20)):
        tokens = runner._make_pool_and_graphs(room, expected)
        assert runner.memory[-2:] == [("CUDA graphs", of_graphs), (f"KV pool, {tokens} tokens", tokens * token_bytes)]
        assert 0 <= room - tokens * token_bytes - of_graphs <= 33 << 20
    assert len(runner.memory) == 4


def test_what_cannot_be_done_is_refused_by_name(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        Runner(config(tmp_path))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device=cuda"):
            Runner(config(checkpoint[0], device="cuda"))


@pytest.mark.parametrize("data_type", ["bf16", "float16"])
def test_half_precision_weights_run(checkpoint, data_type):
    half = Runner(config(checkpoint[0], data_type=data_type))
    torch.set_num_threads(1)
    tokens = prompt(23)
    assert generate(half, tokens, scattered(60), 2, GREEDY) == expected(checkpoint[1], tokens, 2)


def test_dummy_weights_run(checkpoint):
    dummy = Runner(config(checkpoint[0], load_format="dummy", max_req_total_len=2 * LONGEST))
    torch.set_num_threads(1)
    slots = scattered(200)
    assert len(generate(dummy, prompt(150), slots, 3, GREEDY)) == 3
