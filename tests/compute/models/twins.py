"""The tests every model passes: agreement with its transformers twin, however the work is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.compute.driver import load, run, save, tensor_mesh
from tests.compute.ranks import ThreadRanks

VOCABULARY = 101  # not divisible by 2 or 4 ranks
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
LENGTHS = (17, 9, 12)
# Whole prompts; and chunks, then decodes beside chunks, then decodes alone, where sequences end at different times.
STEPS = {"whole": [LENGTHS], "chunked": [(5, 4, 0), (9, 1, 7), (1, 2, 3), (1, 1, 1), (1, 1, 1)]}


@dataclass
class Twin:
    """A tiny random checkpoint on disk and what transformers computes with it."""

    directory: Path
    sequences: Sequence[Tensor]
    expected: Sequence[Tensor]


def make(model, directory: Path) -> Twin:
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in LENGTHS]
    torch.manual_seed(0)
    save(model.eval(), directory)
    with torch.inference_mode():
        return Twin(directory, sequences, [model(tokens[None]).logits[0] for tokens in sequences])


def check(twin: Twin, steps: str = "whole") -> None:
    """One rank, in these steps."""
    got = run(load(twin.directory), twin.sequences, STEPS[steps])
    torch.testing.assert_close(got, twin.expected, atol=1e-4, rtol=1e-4)


def check_ranks(twin: Twin, ranks: int, *, expert_parallel: bool = False) -> None:
    """Every one of several ranks computes the same."""

    def work(group):
        model = load(twin.directory, tensor_mesh(group, expert_parallel=expert_parallel))
        return run(model, twin.sequences, STEPS["chunked"])

    for got in ThreadRanks(ranks).run(work):
        torch.testing.assert_close(got, twin.expected, atol=1e-4, rtol=1e-4)
