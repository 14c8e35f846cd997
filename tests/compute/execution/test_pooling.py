"""Vectors made of all hidden states of prompts whose chunks are computed beside those of others."""

import numpy as np
import pytest
import torch

from lightllm.compute.execution.runner import Runner
from tests.compute.execution.checkpoint import VOCABULARY, config, make
from tests.compute.execution.plans import Run, plan

PARTS = {"mean": lambda hidden: hidden.mean(0), "cls": lambda hidden: hidden[0]}
GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen3")
    return directory, make(directory).model


@pytest.mark.parametrize("pooling", PARTS)
def test_chunks_add_up_to_the_whole_prompt(checkpoint, pooling):
    directory, model = checkpoint
    runner = Runner(config(directory, task="embed", pooling=pooling))
    prompts = [np.random.default_rng(i).integers(0, VOCABULARY, length).tolist() for i, length in enumerate((9, 4, 6))]
    slots = np.random.default_rng(3).permutation(1000)[:30].reshape(3, 10).tolist()

    def run(which, row, start, stop):
        begins = None if start else {**GREEDY, "prompt_length": len(prompts[which])}
        part, places = prompts[which][start:stop], slots[which][start:stop]
        return Run(row, start, part, places, samples=stop == len(prompts[which]), begins=begins)

    def expected(which):
        with torch.inference_mode():
            hidden = model(torch.tensor([prompts[which]])).last_hidden_state[0]
        return torch.nn.functional.normalize(PARTS[pooling](hidden), dim=0).numpy()

    runner.step(plan(run(2, 1, 0, 5)))  # its row is another's next, as if it had been preempted
    runner.step(plan(run(0, 0, 0, 4), run(1, 1, 0, 3)))
    first = runner.step(plan(run(1, 1, 3, 4), run(0, 0, 4, 6))).vectors
    runner.step(plan(run(0, 0, 6, 8)))
    later = runner.step(plan(run(0, 0, 8, 9), run(2, 1, 0, 6))).vectors
    np.testing.assert_allclose(first[0], expected(1), atol=1e-5)
    np.testing.assert_allclose(later, [expected(0), expected(2)], atol=1e-5)
