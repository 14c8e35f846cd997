"""Two real processes over gloo: the collectives, and a whole model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.compute.models.twins import SIZES, STEPS, make

RANKS = 2


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A model's twin, and what each rank computed."""
    directory = tmp_path_factory.mktemp("llama")
    twin = make(LlamaForCausalLM(LlamaConfig(**SIZES)), directory)
    torch.save((twin.sequences, STEPS["chunked"]), directory / "work.pt")
    command = [sys.executable, "-m", "tests.compute.parallel.one_rank", str(directory)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    root = Path(__file__).parents[3]
    ranks = [subprocess.Popen([*command, str(rank), str(RANKS)], env=environment, cwd=root) for rank in range(RANKS)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0] * RANKS
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return twin, [torch.load(directory / f"{rank}.pt") for rank in range(RANKS)]


def test_collectives(outputs):
    for rank, got in enumerate(outputs[1]):
        torch.testing.assert_close(got["sum"], torch.full((2, 3), 3.0))
        torch.testing.assert_close(got["gather_last"], torch.tensor([[1.0] * 3 + [2.0] * 3] * 2))
        torch.testing.assert_close(got["broadcast"], torch.tensor([7]))
        torch.testing.assert_close(got["alone"], torch.full((2,), float(rank)))


def test_model_matches_transformers(outputs):
    twin, ranks = outputs
    for got in ranks:
        torch.testing.assert_close(got["logits"], list(twin.expected), atol=1e-4, rtol=1e-4)
