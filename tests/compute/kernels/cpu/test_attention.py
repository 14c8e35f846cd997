"""How the work is cut does not show in the result, and costs no more Python calls for many sequences than for few."""

import sys

import pytest
import torch

from lightllm.compute import ops
from lightllm.compute.kernels.cpu import attention
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.ops.op import Facts

FACTS = Facts(torch.device("cpu"), torch.float32)
LATENT, RANK = 24, 16


def decodes(lengths):
    """Arguments of attend and of attend_latent for one token of each of these sequences."""
    generator = torch.Generator().manual_seed(0)
    count, width = len(lengths), max(lengths)
    table = torch.randperm(count * width, generator=generator).view(count, width).to(torch.int32)
    start = torch.arange(count + 1, dtype=torch.int32)
    sequences = Sequences(table, torch.arange(count), start, torch.tensor(lengths, dtype=torch.int32), count, [], [])
    pool = torch.randn(2, table.numel(), 2, 8, generator=generator)
    latents = torch.randn(table.numel(), LATENT, generator=generator)
    q, fixed, turning = (torch.randn(count, 4, dim, generator=generator) for dim in (8, 6, LATENT - RANK))
    matrices = torch.randn(2, 4, 6, RANK, generator=generator)
    return (q, pool[0], pool[1], sequences, 0.3, None), (fixed, turning, *matrices, latents, sequences, 0.3)


@pytest.mark.parametrize(
    "sizes", [{"LOT_NUMBERS": 1, "MOST_LOTS": 100}, {"MOST_NUMBERS": 700}, {"SHORT": 0}, {"BLOCK": 3}]
)
@pytest.mark.parametrize("op", [ops.attend, ops.attend_latent], ids=lambda op: op.name)
def test_any_cut_gives_the_same(op, sizes, monkeypatch):
    torch.manual_seed(0)
    for name, value in sizes.items():
        monkeypatch.setattr(attention, name, value)
    for arguments in op.cases(FACTS):
        expected, got = op.reference(*arguments), getattr(attention, op.name)(*arguments)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def python_calls(function, arguments):
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event == "call" else None)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return len(calls)


@pytest.mark.parametrize("which", [0, 1], ids=["attend", "attend_latent"])
def test_a_layer_makes_as_many_python_calls_for_many_sequences_as_for_few(which):
    function = (attention.attend, attention.attend_latent)[which]
    counts = []
    for count in (8, 256):
        arguments = decodes([20 + i * 37 % 300 for i in range(count)])[which]
        function(*arguments)  # the first layer plans the step
        counts.append(python_calls(function, arguments))
    assert counts[0] == counts[1]


def test_a_step_is_planned_once_for_all_layers_of_a_kind():
    arguments = decodes([5, 70, 9])[0]
    attention.attend(*arguments)
    attention.attend(*arguments)
    *others, sequences, scale, _ = arguments
    attention.attend(*others, sequences, scale, 4)
    assert len(sequences.memo) == 2
