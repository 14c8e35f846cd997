import numpy as np
import torch

from lightllm.base.step import LAST_SAMPLED
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.step import build, starts_of
from lightllm.compute.ops.attention import IN_RUNS
from lightllm.compute.transfers import Upload
from tests.compute.execution.plans import Run, plan

CPU = torch.device("cpu")


def test_contexts_in_runs_of_slots_are_known():
    def are_known(*sequences):
        return IN_RUNS in build(plan(*sequences), Rows(4, 16, 50, CPU), Upload(CPU)).batch.sequences.memo

    decode, whole = Run(3, 5, [LAST_SAMPLED], [9]), Run(0, 0, [10, 11, 12], [40, 41, 42])
    behind_a_prefix = Run(2, 2, [20, 21], [30, 31, 32, 33], told=0)
    assert are_known(decode, whole, behind_a_prefix)
    assert are_known(whole, Run(1, 0, [1, 2], [43, 44]))
    assert not are_known(decode)
    assert not are_known(whole, Run(1, 0, [1, 2, 3], [7, 8, 10]))
    assert not are_known(Run(1, 0, [1, 2, 3], [7, 6, 5]), whole)
    assert not are_known(whole, Run(2, 2, [20, 21], [32, 33])), "where its first tokens lie is not told"


def test_runs_begin_where_those_before_them_end():
    assert starts_of(np.array([2, 0, 1, 3])).tolist() == [0, 2, 2, 3, 6]
    assert starts_of(np.zeros(0, np.int32)).tolist() == [0]


def test_uploads_keep_their_types_and_begin_at_multiples_of_16_bytes():
    arrays = [np.arange(n, dtype=kind) for n, kind in [(3, np.int32), (0, np.int32), (5, np.int64), (1, np.int32)]]
    tensors = Upload(CPU).together(*arrays)
    assert [tensor.tolist() for tensor in tensors] == [array.tolist() for array in arrays]
    assert [tensor.dtype for tensor in tensors] == [torch.int32, torch.int32, torch.int64, torch.int32]
    assert [tensor.tolist() for tensor in Upload(CPU).together(arrays[1])] == [[]]
    base = tensors[0].data_ptr()
    assert all((tensor.data_ptr() - base) % 16 == 0 for tensor in tensors if len(tensor))


def test_a_plan_becomes_tensors():
    rows = Rows(4, 16, 50, CPU)
    rows.last_token[3] = 77
    made = plan(
        Run(0, 0, [10, 11, 12], [40, 3, 41]),
        Run(3, 5, [LAST_SAMPLED], [9]),
        Run(2, 2, [20, 21], [30, 31, 7, 8], told=0),  # two tokens beyond a prefix of two
        Run(1, 4, [30], [5], samples=False),
    )
    step = build(made, rows, Upload(CPU))
    batch, all_of = step.batch, step.batch.sequences
    assert batch.tokens.tolist() == [77, 30, 10, 11, 12, 20, 21]
    assert batch.positions.tolist() == [5, 4, 0, 1, 2, 2, 3]
    assert batch.slots.tolist() == [9, 5, 40, 3, 41, 7, 8]
    assert all_of.row.tolist() == [3, 1, 0, 2]
    assert all_of.query_start.tolist() == [0, 1, 2, 5, 7]
    assert all_of.lengths.tolist() == [6, 5, 3, 4]
    assert (all_of.decodes, all_of.query_lengths, all_of.context_lengths) == (2, [3, 2], [3, 4])
    assert all_of.slot_table[2, :4].tolist() == [30, 31, 7, 8]
    assert [x.tolist() for x in (step.batch.wanted.token, step.row, step.length)] == [[0, 4, 6], [3, 0, 2], [6, 3, 4]]
    assert {x.dtype for x in (batch.tokens, batch.positions, batch.slots, all_of.row)} == {torch.int64}
    assert {x.dtype for x in (all_of.query_start, all_of.lengths, all_of.slot_table)} == {torch.int32}
