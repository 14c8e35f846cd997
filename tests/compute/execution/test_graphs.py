"""What decides about graphs and fills them, with recorders that compute everything again."""

import numpy as np
import pytest
import torch

from lightllm.compute.execution.graphs import Choices, Graphs, compute_again, sizes_up_to
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.runner import Runner
from lightllm.compute.transfers import Upload
from tests.compute.execution.checkpoint import config, make
from tests.compute.execution.plans import Run, decodes, plan

CPU = torch.device("cpu")


def graphs(sizes, model=lambda batch: batch.tokens.float(), *, rows=8, most_read_again=0):
    held = Rows(rows, 16, 50, CPU)
    made = Graphs(model, held, 50, sizes, upload=Upload(CPU), record=compute_again, most_read_again=most_read_again)
    return made, held


def test_sizes_leave_little_padding():
    assert sizes_up_to(256) == [1, 2, 4, *range(8, 257, 8)]
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(13) == [1, 2, 4, 8, 13]
    assert sizes_up_to(600) == [*sizes_up_to(256), *range(288, 513, 32), 576, 600]


def test_a_plan_takes_the_next_size():
    policy, _ = graphs([4, 1, 2])
    assert [policy.size_for(decodes(range(n), [3] * n, range(n))) for n in (1, 2, 3, 4)] == [1, 2, 4, 4]


@pytest.mark.parametrize(
    "sequences",
    [
        [Run(row, 3, [-1], [row]) for row in range(5)],
        [Run(0, 3, [-1, 5], [1, 2]), Run(1, 0, [5, 6], [3, 4])],
        [Run(0, 0, [4, 5, 6, 7, 8], range(5))],
        [Run(0, 3, [7], [1, 2, 3, 4], told=0)],
        [Run(0, 3, [7], [], told=4)],
    ],
    ids=["too many", "too much is read again", "too long a chunk", "a prefix was found", "no slot is new"],
)
def test_other_steps_are_not_replayed(sequences):
    policy, _ = graphs([1, 2, 4], most_read_again=11)  # the second one's chunks read 4 + 5 + 1 + 2
    assert policy.run(plan(*sequences)) is None


def test_a_step_reaches_the_model_padded():
    seen = []

    def model(batch):
        seen.append(batch)
        return batch.tokens.float().unsqueeze(1)

    policy, rows = graphs([1, 2, 4], model)
    rows.last_token[5] = 77
    seen.clear()
    step = policy.run(plan(Run(5, 3, [-1], [9]), Run(2, 0, [30], [8]), Run(6, 15, [31], [7])))
    (batch,) = seen
    all_of = batch.sequences
    assert batch.tokens.tolist() == [77, 30, 31, 0]
    assert batch.positions.tolist() == [3, 0, 15, 0]
    assert batch.slots.tolist() == [9, 8, 7, 50]
    assert all_of.row.tolist() == [5, 2, 6, 8]
    assert all_of.lengths.tolist() == [4, 1, 16, 1]
    assert all_of.query_start.tolist() == [0, 1, 2, 3, 4]
    assert (all_of.decodes, all_of.query_lengths, all_of.context_lengths) == (4, [], [])
    assert {x.dtype for x in (batch.tokens, batch.positions, batch.slots, all_of.row)} == {torch.int64}
    assert {x.dtype for x in (all_of.query_start, all_of.lengths, all_of.slot_table)} == {torch.int32}
    assert rows.slot_table[[5, 2, 6, 8], [3, 0, 15, 0]].tolist() == [9, 8, 7, 50]
    assert rows.token_of_slot[[9, 8, 7]].tolist() == [77, 30, 31]
    assert step.hidden.tolist() == [[77], [30], [31]]
    assert (step.row.tolist(), step.length.tolist()) == ([5, 2, 6], [4, 1, 16])


def test_tokens_are_chosen_by_what_was_recorded():
    held = Rows(8, 16, 50, CPU)
    made = Graphs(
        lambda batch: batch.tokens.unsqueeze(1), held, 50, [1, 2, 4], upload=Upload(CPU), record=compute_again,
        choices=Choices(lambda hidden, row, length: 10 * hidden[:, 0] + row, lambda hidden, row, length: row + length),
        most_read_again=100,
    )  # fmt: skip
    step = made.run(plan(Run(5, 3, [7], [9]), Run(2, 0, [3], [8]), Run(6, 15, [4], [7])))
    assert step.likeliest().tolist() == [75, 32, 46]
    assert step.drawn().tolist() == [5 + 4, 2 + 1, 6 + 16]
    # The tokens of a chunk would all be remembered by its row.
    assert made.run(plan(Run(5, 3, [7, 8], [9, 10]))).likeliest is None


def test_a_chunk_is_computed_as_a_sequence_for_each_token():
    seen = []

    def model(batch):
        seen.append(batch)
        return batch.tokens.float().unsqueeze(1)

    policy, rows = graphs([2, 8], model, most_read_again=100)
    rows.last_token[5] = 77
    seen.clear()
    chunks = Run(2, 0, [30, 31, 32], [8, 4, 6]), Run(6, 9, [33, 34], [7, 2], samples=False)
    step = policy.run(plan(Run(5, 3, [-1], [9]), *chunks))
    (batch,) = seen
    all_of = batch.sequences
    assert batch.tokens.tolist() == [77, 30, 31, 32, 33, 34, 0, 0]
    assert batch.positions.tolist() == [3, 0, 1, 2, 9, 10, 0, 0]
    assert batch.slots.tolist() == [9, 8, 4, 6, 7, 2, 50, 50]
    assert all_of.row.tolist() == [5, 2, 2, 2, 6, 6, 8, 8]
    assert all_of.lengths.tolist() == [4, 1, 2, 3, 10, 11, 1, 1]
    assert rows.slot_table[2, :3].tolist() == [8, 4, 6]
    assert step.hidden.tolist() == [[77], [32]]
    assert (step.row.tolist(), step.length.tolist()) == ([5, 2], [4, 3])


def test_nothing_of_a_step_is_left_in_the_next_one():
    policy, rows = graphs([4])
    policy.run(decodes([1, 2, 3], [4, 5, 6], [10, 11, 12]))
    rows.slot_table[:8] = -1
    policy.run(decodes([0], [2], [20]))
    assert rows.slot_table[:8].max() == rows.slot_table[0, 2] == 20
    assert (rows.slot_table[:8] >= 0).sum() == 1


@pytest.mark.parametrize("most_read_again", [0, 1000], ids=["decodes", "chunks too"])
def test_replayed_answers_equal_those_that_are_computed_anew(tmp_path, most_read_again):
    make(tmp_path)
    plain, replaying = Runner(config(tmp_path)), Runner(config(tmp_path))
    torch.set_num_threads(1)
    with torch.inference_mode():
        replaying.stepper.capture([1, 4, 8, 24], compute_again, most_read_again=most_read_again)
    begins = [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 3, "top_p": 0.9},
        {"temperature": 1.0, "seed": 4, "repetition_penalty": 1.3, "num_logprobs": 2},
    ]
    prompts = [np.arange(length) * 7 % 101 for length in (5, 11, 3)]
    first = plan(
        *(
            Run(row, 0, ids.tolist(), range(row * 100, row * 100 + len(ids)), begins={**how, "prompt_length": len(ids)})
            for row, (ids, how) in enumerate(zip(prompts, begins, strict=True))
        )
    )
    steps, lengths = [first], [len(ids) for ids in prompts]
    for i in range(12):
        rows = (range(1, 2), range(2), range(3))[i % 3]  # those that are drawn, and with likeliest ones, and all
        starts = [lengths[row] for row in rows]
        steps.append(decodes(rows, starts, [row * 100 + lengths[row] for row in rows]))
        for row in rows:
            lengths[row] += 1
    for step in steps:
        got, wanted = replaying.step(step), plain.step(step)
        assert got.tokens.tolist() == wanted.tokens.tolist()
        np.testing.assert_allclose(got.logprobs, wanted.logprobs, atol=1e-5)
