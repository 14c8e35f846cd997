"""What decides about graphs of mixed steps and fills them, with a recorder that computes everything again."""

import numpy as np
import pytest
import torch

from lightllm.compute import ops
from lightllm.compute.execution import mixed_graphs
from lightllm.compute.execution.graphs import compute_again, sizes_up_to
from lightllm.compute.execution.mixed_graphs import LONGEST_CONTEXT, MixedGraphs
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.runner import Runner
from lightllm.compute.transfers import Upload
from tests.compute.execution.checkpoint import config, make
from tests.compute.execution.plans import Run, decodes, plan

CPU = torch.device("cpu")
HOLD_SLOT = 50


@pytest.fixture
def few_places(monkeypatch):
    monkeypatch.setattr(mixed_graphs, "MOST_SEQUENCES", 5)
    monkeypatch.setattr(mixed_graphs, "MOST_CHUNKS", 2)


def graphs(sizes, model=lambda batch: batch.tokens.float().unsqueeze(1), *, rows=8, longest=16):
    held = Rows(rows, longest, HOLD_SLOT, CPU)
    return MixedGraphs(model, held, HOLD_SLOT, sizes, upload=Upload(CPU), record=compute_again), held


def chunk(row, count, start=0, **others):
    return Run(row, start, list(range(count)), [row * 5 + i % 5 for i in range(count)], **others)


def test_sizes_of_mixed_steps_leave_little_padding():
    sizes = sizes_up_to(1024, mixed_graphs.GAPS)
    assert sizes == [*range(32, 256, 32), *range(256, 512, 64), *range(512, 1025, 128)]
    assert sizes_up_to(20, mixed_graphs.GAPS) == [20]
    assert sizes_up_to(0, mixed_graphs.GAPS) == []


def test_a_step_takes_the_next_number_of_tokens():
    policy, _ = graphs([4, 8, 16])
    assert [policy.size_for(plan(chunk(0, n))) for n in (1, 4, 5, 8, 9, 16)] == [4, 4, 8, 8, 16, 16]


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ([chunk(0, 16)], [chunk(0, 17)]),
        ([chunk(row, 1) for row in range(5)], [chunk(row, 1) for row in range(6)]),
        ([chunk(row, 2) for row in range(2)], [chunk(row, 2) for row in range(3)]),
        ([chunk(0, 2, LONGEST_CONTEXT - 2), chunk(1, 1, LONGEST_CONTEXT)], [chunk(0, 2, LONGEST_CONTEXT - 1)]),
    ],
    ids=["tokens", "sequences", "chunks", "a chunk's context"],
)
def test_what_exceeds_a_bound_is_not_replayed(taken, refused, few_places):
    policy, _ = graphs([16], longest=LONGEST_CONTEXT + 16)
    assert policy.run(plan(*taken)) is not None
    assert policy.run(plan(*refused)) is None


def test_a_mixed_step_reaches_the_model_padded(few_places):
    seen = []

    def model(batch):
        seen.append(batch)
        return batch.tokens[batch.wanted.token].float().unsqueeze(1)

    policy, rows = graphs([8], model)
    rows.last_token[5] = 77
    seen.clear()
    step = policy.run(
        plan(
            Run(5, 3, [-1], [9]),
            Run(1, 2, [40, 41], [20, 21, 7, 8], told=0),  # after a prefix of two
            Run(2, 0, [30], [6], samples=False),
        )
    )
    (batch,) = seen
    all_of = batch.sequences
    assert batch.tokens.tolist() == [77, 30, 40, 41, 0, 0, 0, 0]
    assert batch.positions.tolist() == [3, 0, 2, 3, 0, 0, 0, 0]
    assert batch.slots.tolist() == [9, 6, 7, 8, 50, 50, 50, 50]
    assert rows.slot_table[1, :4].tolist() == [20, 21, 7, 8]
    # Five places of decodes, then two of chunks.
    assert all_of.row.tolist() == [5, 2, 8, 8, 8, 1, 8]
    assert all_of.query_start.tolist() == [0, 1, 2, 2, 2, 2, 4, 4]
    assert all_of.lengths.tolist() == [4, 1, 0, 0, 0, 4, 0]
    assert (all_of.decodes, all_of.query_lengths, all_of.context_lengths) == (5, [8, 1], None)
    wanted = batch.wanted
    assert (wanted.token.tolist(), wanted.row.tolist()) == ([0, 3, 0, 0, 0], [5, 1, 8, 8, 8])
    assert (wanted.query_start.tolist(), wanted.lengths.tolist()) == ([0, 1, 2, 2, 2, 2], [4, 4, 0, 0, 0])
    assert {x.dtype for x in (batch.tokens, batch.positions, batch.slots, all_of.row)} == {torch.int64}
    assert {x.dtype for x in (all_of.query_start, all_of.lengths, all_of.slot_table)} == {torch.int32}
    assert {x.dtype for x in (wanted.query_start, wanted.lengths)} == {torch.int32}
    assert rows.token_of_slot[[9, 6, 7, 8]].tolist() == [77, 30, 40, 41]
    assert (step.hidden.tolist(), step.row.tolist(), step.length.tolist()) == ([[77], [41]], [5, 1], [4, 4])


def test_a_prefix_may_be_longer_than_the_step():
    policy, rows = graphs([8])
    policy.run(plan(Run(1, 12, [40, 41], range(20, 34), told=0)))
    assert rows.slot_table[1, :14].tolist() == list(range(20, 34))
    assert rows.token_of_slot[[32, 33]].tolist() == [40, 41]
    assert (rows.token_of_slot[:32] == 0).all()


def test_nothing_of_a_mixed_step_is_left_in_the_next_one():
    policy, rows = graphs([16])
    policy.run(plan(chunk(1, 5), chunk(2, 1), chunk(3, 3)))
    rows.slot_table[:8], rows.token_of_slot[:HOLD_SLOT] = -1, -1
    policy.run(plan(Run(0, 2, [9, 9], [20, 21])))
    assert rows.slot_table[0, 2:4].tolist() == [20, 21]
    assert (rows.slot_table[:8] >= 0).sum() == (rows.token_of_slot[:HOLD_SLOT] >= 0).sum() == 2


def test_no_chunks_have_more_blocks_than_the_grid():
    bounds = []
    graphs([32], lambda batch: bounds.append(batch.sequences.query_lengths) or batch.tokens)
    bound = bounds[0]
    generator = np.random.default_rng(0)
    for _ in range(300):
        cuts = np.sort(generator.integers(0, 33, generator.integers(0, len(bound))))
        counts = np.diff([0, *cuts, int(generator.integers(max(cuts, default=0), 33))])
        for pack, block in [(1, 64), (4, 64), (4, 16), (16, 16), (1, 1)]:
            assert sum(-(-counts * pack // block)) <= sum(-(-count * pack // block) for count in bound)


# ---- answers ----


def slots(row, start, stop):
    return range(row * 100 + start, row * 100 + stop)


def ids(count, seed):
    return np.random.default_rng(seed).integers(0, 101, count).tolist()


def prompt(row, start, stop, length, *, cached=(), samples=None, **parameters):
    """Part of a row's prompt of `length` tokens, at first after a prefix in the slots `cached`."""
    begins = None if start > len(cached) else {"temperature": 0.0, "prompt_length": length, **parameters}
    own = [*cached, *slots(row, start, stop)]
    told = start - len(cached)
    samples = stop == length if samples is None else samples
    return Run(row, start, ids(length, row)[start:stop], own, samples=samples, told=told, begins=begins)


def decode(row, start):
    return Run(row, start, [-1], slots(row, start, start + 1))


DRAWN = {"temperature": 1.0, "seed": 3, "top_p": 0.9, "num_logprobs": 2}
PENALIZED = {"repetition_penalty": 1.3, "presence_penalty": 0.2, "num_logprobs": 0}
STEPS = {
    "chunks only": [prompt(0, 0, 12, 12), prompt(1, 0, 20, 30), prompt(2, 0, 9, 9, **PENALIZED)],
    "chunks after chunks": [decode(0, 12), decode(2, 9), prompt(1, 20, 30, 30)],
    "nothing samples": [prompt(3, 0, 16, 40)],
    "a prefix is found": [
        *(decode(0, 13), decode(1, 30), decode(2, 10), prompt(3, 16, 30, 40)),
        prompt(4, 16, 21, 21, cached=slots(3, 0, 16), **DRAWN),
    ],
    "a chunk of one token": [decode(0, 14), prompt(3, 30, 31, 40)],
    "the last of a prompt found but for one token": [prompt(5, 20, 21, 21, cached=slots(1, 0, 20)), decode(4, 21)],
    "a row is resumed": [prompt(1, 6, 31, 31, cached=slots(0, 0, 6), **DRAWN), decode(2, 11), prompt(3, 31, 40, 40)],
    "many tokens": [decode(0, 15), prompt(6, 0, 30, 30, **PENALIZED), prompt(7, 0, 17, 40), decode(1, 31)],
    "decodes": [decode(row, start) for row, start in [(0, 16), (1, 32), (2, 12), (3, 40), (4, 22), (5, 21), (6, 30)]],
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    directory = tmp_path_factory.mktemp("qwen3")
    make(directory)
    return directory, Runner(config(directory))


def attend_undefined(*arguments):
    """The reference, with numbers that spoil everything they meet where the output is undefined."""
    out, sequences = ops.attend.reference(*arguments), arguments[3]
    out[int(sequences.query_start[-1]) :] = float("nan")
    return out


@pytest.mark.parametrize("sizes", [[1, 41, 42, 64], [10, 20, 40], [128]], ids=str)
def test_replayed_mixed_steps_give_what_others_give(plain, sizes, monkeypatch):
    directory, plain_runner = plain
    replaying = Runner(config(directory))
    torch.set_num_threads(1)
    monkeypatch.setattr(ops.attend, "function", attend_undefined)
    with torch.inference_mode():
        replaying.stepper.capture_mixed(sizes, compute_again)
    mixed, replayed = replaying.stepper._mixed_graphs, set()
    for name, sequences in STEPS.items():
        step = plan(*sequences)
        if mixed.size_for(step) is not None:
            replayed.add(name)
        got, wanted = replaying.step(step), plain_runner.step(step)
        assert got.tokens.tolist() == wanted.tokens.tolist(), name
        assert (got.tokens >= 0).tolist() == step.samples.tolist()
        np.testing.assert_allclose(got.logprobs, wanted.logprobs, atol=1e-5)
        assert got.top_tokens.tolist() == wanted.top_tokens.tolist()
    too_large = {name for name, sequences in STEPS.items() if sum(len(one.tokens) for one in sequences) > sizes[-1]}
    assert replayed == STEPS.keys() - too_large
    rows, others = replaying.stepper._rows, plain_runner.stepper._rows
    assert torch.equal(rows.slot_table[:-1], others.slot_table[:-1])
    assert torch.equal(rows.token_of_slot[:-1], others.token_of_slot[:-1])
    assert torch.equal(rows.last_token, others.last_token)


def test_decode_steps_keep_their_own_graphs(plain, monkeypatch):
    runner = Runner(config(plain[0]))
    monkeypatch.setattr(ops.attend, "function", attend_undefined)
    with torch.inference_mode():
        runner.stepper.capture_mixed([8], compute_again)
        runner.stepper.capture([1, 2], compute_again)
    mixed = []
    run = runner.stepper._mixed_graphs.run
    runner.stepper._mixed_graphs.run = lambda step: mixed.append(len(step.rows)) or run(step)
    runner.step(decodes([0, 1], [1, 1], [3, 4]))
    runner.step(decodes([0, 1, 2], [1, 1, 1], [3, 4, 5]))
    assert mixed == [3]
