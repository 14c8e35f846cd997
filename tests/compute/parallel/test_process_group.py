"""Two real processes over gloo: the collectives, and a whole model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed import FileStore
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.compute.parallel.process_group import join, leave, subgroup
from tests.compute.driver import CPU, load, run, tensor_mesh
from tests.compute.models.twins import STEPS, VOCABULARY, make

RANKS = 2
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    twin = make(LlamaForCausalLM(LlamaConfig(**SIZES)), directory)
    torch.save(twin.sequences, directory / "sequences.pt")
    command = [sys.executable, "-m", __name__, str(directory)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(RANKS)]
    try:
        assert [process.wait(timeout=120) for process in ranks] == [0] * RANKS
    finally:
        for process in ranks:
            process.kill()
    return twin, [torch.load(directory / f"{rank}.pt") for rank in range(RANKS)]


def test_collectives(outputs):
    for rank, (summed, gathered, broadcast, alone, _) in enumerate(outputs[1]):
        torch.testing.assert_close(summed, torch.full((2, 3), 3.0))
        torch.testing.assert_close(gathered, torch.tensor([[1.0] * 3 + [2.0] * 3] * 2))
        torch.testing.assert_close(broadcast, torch.tensor([7]))
        torch.testing.assert_close(alone, torch.full((2,), float(rank)))


def test_model_matches_transformers(outputs):
    twin, results = outputs
    for *_, logits in results:
        torch.testing.assert_close(logits, list(twin.expected), atol=1e-4, rtol=1e-4)


def main(directory: Path, rank: int) -> None:
    torch.set_num_threads(1)
    group = join(FileStore(str(directory / "store"), RANKS), rank=rank, ranks=RANKS, device=CPU)
    singles = [subgroup([0]), subgroup([1])]
    own = torch.full((2, 3), rank + 1.0)
    summed, gathered = group.sum(own.clone()), group.gather_last(own)
    broadcast = group.broadcast(torch.tensor([7 if rank == 0 else 0]))
    alone = singles[rank].sum(torch.full((2,), float(rank)))
    logits = run(load(directory, tensor_mesh(group)), torch.load(directory / "sequences.pt"), STEPS["chunked"])
    torch.save((summed, gathered, broadcast, alone, logits), directory / f"{rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
