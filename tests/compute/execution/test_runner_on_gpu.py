import numpy as np
import pytest
import torch

from lightllm.base.config import EngineConfig
from lightllm.compute.execution.made_up_steps import largest_steps
from lightllm.compute.execution.runner import Runner
from tests.compute.execution.checkpoint import SIZES, config, make
from tests.compute.execution.plans import Run, decodes, plan
from tests.compute.execution.test_runner import GREEDY, expected, generate, prompt, scattered

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen3")
    return directory, make(directory)


def sampled(runner):
    """Answers with everything that sampling can do, one at a time; results of different rows in one step."""
    everything = {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2, "presence_penalty": 0.3}
    answers = []
    for seed in range(5):
        parameters = {**everything, "min_tokens": 5, "seed": seed}
        answers.append(generate(runner, prompt(15, seed), scattered(60), 20, parameters, stop_tokens=[3, 4]))
    chosen = [{"top_k": 5}, GREEDY, {}, {"top_p": 0.8}, {"min_p": 0.1, "top_k": 7}, {"frequency_penalty": 0.5}, {}]
    begins = [
        {"temperature": 1.0, "num_logprobs": 4, "prompt_length": 15, "seed": i} | one for i, one in enumerate(chosen)
    ]
    rows, slots = range(len(chosen)), [range(row * 20, row * 20 + 20) for row in range(len(chosen))]
    first = plan(*(Run(row, 0, prompt(15, row), slots[row][:15], begins=begins[row]) for row in rows))
    together = [runner.step(first)]
    together += [runner.step(decodes(rows, [15 + i] * len(rows), [line[15 + i] for line in slots])) for i in range(4)]
    return answers, together


@pytest.fixture(scope="module")
def runner(checkpoint):
    return Runner(config(checkpoint[0], device="cuda", data_type="float32", batch_max_tokens=512))


def test_greedy_generation_equals_transformers(checkpoint, runner):
    tokens = prompt(23)
    got = generate(runner, tokens, scattered(60), 20, GREEDY, chunks=(5, 1, 9))
    assert got == expected(checkpoint[1], tokens, 20)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("parameters", [GREEDY, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "drawn"])
def test_launching_waits_for_nothing(runner, parameters):
    begins = {**parameters, "prompt_length": 15}
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = [runner.launch(plan(Run(0, 0, prompt(15), range(15), begins=begins)))]
        launched += [runner.launch(decodes([0], [15 + i], [15 + i])) for i in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tokens = [int(one.result().tokens[0]) for one in launched]
    assert tokens == generate(runner, prompt(15), range(30), 6, parameters)


@pytest.mark.parametrize("parameters", [GREEDY, {"temperature": 0.8, "top_k": 20}], ids=["greedy", "drawn"])
def test_answers_are_the_same_with_and_without_graphs(checkpoint, runner, parameters):
    plain = Runner(
        config(checkpoint[0], device="cuda", data_type="float32", batch_max_tokens=512, disable_cudagraph=True)
    )
    assert not plain.stepper.has_graphs
    assert runner.stepper.has_graphs
    for batch in (1, 3, 8, 13, 200):
        slots = [scattered(900)[row * 4 : row * 4 + 4] for row in range(batch)]
        begins = {**parameters, "prompt_length": 2}
        first = plan(
            *(Run(row, 0, prompt(2, row), slots[row][:2], begins=begins | {"seed": row}) for row in range(batch))
        )
        steps = [first, *(decodes(range(batch), [2 + i] * batch, [line[2 + i] for line in slots]) for i in range(2))]
        for step in steps:
            assert runner.step(step).tokens.tolist() == plain.step(step).tokens.tolist()


def test_chunks_in_graphs_give_the_same_answers(checkpoint, runner):
    """Chunks of few tokens beside decodes, with and without a sample, replayed and computed anew."""
    settings = {"device": "cuda", "data_type": "float32", "batch_max_tokens": 512, "graph_max_read_again": 0}
    plain = Runner(config(checkpoint[0], **settings))
    begins = {**GREEDY, "prompt_length": 40}
    for chunks in ([40], [7, 33], [1, 20, 2, 17]):
        start = 0
        for size in chunks:
            stop = start + size
            parts = [
                Run(
                    row,
                    start,
                    prompt(40, row)[start:stop],
                    range(row * 50 + start, row * 50 + stop),
                    stop == 40,
                    begins=begins,
                )
                for row in range(3)
            ]
            step, start = plan(*parts), stop
            assert runner.step(step).tokens.tolist() == plain.step(step).tokens.tolist()


def test_nothing_is_compiled_once_a_runner_is_ready(checkpoint):
    """Half precision, in which all kernels run: chunks of all lengths beside decodes, every way of sampling."""
    made = Runner(EngineConfig(model_dir=str(checkpoint[0]), running_max_req_size=300, device="cuda"))
    compiled: list[str] = []
    made.tell_of_compiling(compiled.append)
    try:
        sampled(made)
        generator = np.random.default_rng(0)
        for _ in range(50):
            lengths = [1] * int(generator.integers(150)) + generator.integers(
                2, 120, generator.integers(1, 60)
            ).tolist()
            begins = {"temperature": 1.0, "prompt_length": 1}
            parts = [
                Run(row, 0, prompt(length), generator.integers(0, 1000, length).tolist(), begins=begins)
                for row, length in enumerate(lengths)
            ]
            made.step(plan(*parts))
            rows = range(int(generator.integers(1, 300)))
            made.step(decodes(rows, [1] * len(rows), [5] * len(rows)))
    finally:
        made.tell_of_compiling(None)
    assert compiled == []


def test_the_largest_step_fits_beside_the_pool(checkpoint):
    """Half precision, measured: what the pool leaves is what the largest step takes."""
    measured = Runner(
        EngineConfig(model_dir=str(checkpoint[0]), running_max_req_size=2000, mem_fraction=0.5, device="cuda")
    )
    names = [name.partition(",")[0] for name, _ in measured.memory]
    assert names == ["weights", "kernels and libraries", "largest step", "slot table", "CUDA graphs", "KV pool"]
    total = torch.cuda.get_device_properties(0).total_memory
    assert sum(size for _, size in measured.memory) <= 0.5 * total
    torch.cuda.empty_cache()
    for step in largest_steps(tokens=8192, rows=2000, longest=SIZES["max_position_embeddings"]):
        measured.step(step)
    free, _ = torch.cuda.mem_get_info()
    assert total - free <= 0.5 * total + (64 << 20)


def test_everything_that_sampling_does_equals_a_cpu(checkpoint, runner):
    """Comes last: what computes each op is chosen for the process, so after a runner on a CPU none on a GPU runs."""
    answers, together = sampled(runner)
    wanted_answers, wanted_together = sampled(Runner(config(checkpoint[0])))
    assert answers == wanted_answers
    for result, wanted in zip(together, wanted_together, strict=True):
        assert result.tokens.tolist() == wanted.tokens.tolist()
        np.testing.assert_allclose(result.top_logprobs, wanted.top_logprobs, atol=1e-4)
        np.testing.assert_allclose(result.logprobs, wanted.logprobs, atol=1e-4)
