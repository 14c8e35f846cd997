"""Triton's interpreter computes what the references do. Run by test_without_gpu.py, in a process of its own."""

import contextlib
import dataclasses
import functools
import importlib
import types
import unittest.mock

import pytest
import torch

from tests.compute.kernels import interpreter  # isort: skip  (changes Triton, so before any kernel)
from lightllm.base.errors import ConfigError
from lightllm.bench.kernels import tunable
from lightllm.bench.kernels.model_sizes import Heads, Mixture, ModelSizes, Product
from lightllm.compute import kernels, ops
from lightllm.compute.kernels.triton import (
    attention_decode,
    attention_join,
    attention_latent,
    attention_latent_decode,
    attention_prefill,
    attention_prefill_hopper,
    expert_products,
    expert_rows,
    experts,
    launch,
    matvec,
    rope_quantized,
)
from lightllm.compute.kernels.triton.attention_decode import LOG2_E
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.ops.op import ALL, Facts
from tests.compute.kernels.more_cases import CASES, attention, expert_cases_fp8, latent_attention
from tests.compute.ops.test_parity import LIMITS_OF_POOLS, clone, results, split_pools, tensors

assert interpreter.Builder.create_dot is interpreter._dot, "the interpreter is the repaired one"
CPU = torch.device("cpu")
# By its module: registered before it may be what runs on a CPU.
TRITON_ATTENTION = importlib.import_module("lightllm.compute.kernels.triton.attention")
for module in kernels.MODULES["cuda"]:
    importlib.import_module(module)
PAIRS = [
    pytest.param(op, implementation, id=op.name)
    for op in ALL.values()
    for implementation in op.implementations
    if implementation.name == "triton"  # Gluon has no interpreter
]


def refuse(*args):
    raise AssertionError("a kernel falls back to a reference")


def assert_matches(op, function, arguments, dtype):
    """Without references, which on a GPU would be taken silently."""
    expected_arguments, got_arguments = clone(arguments), clone(arguments)
    expected = op.reference(*expected_arguments)
    with contextlib.ExitStack() as stack:
        for one in ALL.values():
            stack.enter_context(unittest.mock.patch.object(one, "reference", refuse))
        got = function(*got_arguments)
    tolerance = {"atol": op.tolerance[dtype], "rtol": op.tolerance[dtype]}
    torch.testing.assert_close(results(op.name, got), results(op.name, expected), **tolerance)
    (pools, got_arguments), (expected_pools, expected_arguments) = map(split_pools, (got_arguments, expected_arguments))
    torch.testing.assert_close(tensors(got_arguments), tensors(expected_arguments), **tolerance)
    for (_, one), (kind, other) in zip(pools, expected_pools, strict=True):
        assert (one - other).norm() <= LIMITS_OF_POOLS[kind] * other.norm()


@pytest.mark.parametrize("dtype", launch.DTYPES, ids=str)
@pytest.mark.parametrize(("op", "implementation"), PAIRS)
def test_matches_reference(op, implementation, dtype, monkeypatch):
    torch.manual_seed(0)
    # Time goes by the number of tiles here, so float32 gets the tiles that 16 bits have.
    shape = attention_prefill.shape_for(128, torch.bfloat16, 1000)
    monkeypatch.setattr(attention_prefill, "shape_for", lambda dim, dtype, rows: shape)
    facts = Facts(CPU, dtype)
    cases = list(op.cases(facts))
    if dtype != torch.float32:
        cases = [arguments for arguments in cases if len(arguments[0]) < 100]
    if dtype == torch.bfloat16:
        cases += CASES[op.name](facts)
    for arguments in cases:
        assert_matches(op, implementation.function, arguments, dtype)


def test_eight_bit_floats_are_refused_by_name_on_older_cards(monkeypatch):
    monkeypatch.setattr(rope_quantized, "card", lambda device: launch.Card((8, 0), 108))
    facts = Facts(CPU, torch.bfloat16)
    for arguments in ops.norm_rotate_store_quantized.cases(facts):
        is_refused = arguments[9].dtype == torch.float8_e4m3fn
        with (
            pytest.raises(ConfigError, match=r"--kv_type=fp8 needs .* 8\.9, this device has 8\.0; use int8")
            if (is_refused)
            else contextlib.nullcontext()
        ):
            rope_quantized.norm_rotate_store_quantized(*arguments)


@pytest.mark.parametrize("tile", [16, 64])
def test_decodes_shared_among_many_programs_are_joined(tile, monkeypatch):
    """More programs than sequences, fewer, and as many: every sequence's parts are joined, and counters end at zero."""
    torch.manual_seed(0)
    facts = Facts(CPU, torch.float32)
    for lengths in ([10 * tile - 5], [1, 5 * tile, 2, tile + 20], [17] * 9):
        arguments = attention(facts, [1] * len(lengths), lengths, heads=6, kv_heads=2, dim=16)
        for programs in (1, 6, 20):
            shape = attention_decode.Shape(tile=tile, warps=4, stages=2, programs=programs, least_tiles=1)
            monkeypatch.setattr(attention_decode, "shape_for", lambda dim, dtype, shape=shape: shape)
            assert_matches(ops.attend, TRITON_ATTENTION.attend, arguments, torch.float32)
            assert not launch.arrivals(CPU).any()


@pytest.mark.parametrize("heads", [6, 80])
def test_latent_decodes_shared_among_many_programs_are_joined(heads, monkeypatch):
    torch.manual_seed(0)
    facts = Facts(CPU, torch.float32)
    for lengths in ([155], [1, 80, 2, 36], [17] * 9):
        arguments = latent_attention(facts, [1] * len(lengths), lengths, heads=heads, rank=16, dim=8)
        for programs in (1, 6, 20):
            shape = attention_latent_decode.Shape(tile=16, warps=4, stages=2, programs=programs, least_tiles=1)
            monkeypatch.setattr(
                attention_latent_decode, "shape_for", lambda heads, dtype, is_scaled, shape=shape: shape
            )
            assert_matches(ops.attend_latent, attention_latent.attend_latent, arguments, torch.float32)
            assert not launch.arrivals(CPU).any()


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("programs", [1, 5, 21])
@pytest.mark.parametrize("lengths", [[70, 1, 9, 4, 0], [36, 33], [7] * 10], ids=str)
def test_parts_of_shared_sequences_are_joined(lengths, programs, blocks):
    """Whatever programs share a sequence; what one program has alone is left to it."""
    torch.manual_seed(0)
    tile, group, dim, least = 4, 3, 8, 2
    lengths = torch.tensor(lengths, dtype=torch.int32)
    keys = [torch.randn(length, dim) for length in lengths.tolist()]
    q = torch.randn(len(lengths), blocks * group, dim)
    scores = [(query @ key.T).view(blocks, group, -1) for query, key in zip(q, keys, strict=True)]
    tiles = [
        (sequence, block, slice(start, start + tile))
        for block in range(blocks)
        for sequence, length in enumerate(lengths.tolist())
        for start in range(0, length, tile)
    ]
    parts, stats = (x.fill_(float("nan")) for x in attention_join.room(programs, group, dim, CPU))
    expected = torch.full_like(q, float("nan"))
    are_even = len({-(-length // tile) for length in lengths.tolist()}) == 1
    used = attention_join.even_programs(len(lengths) * blocks, programs) if are_even else programs
    used = min(used, -(-len(tiles) // least))
    owner = {one: p for p in range(used) for one in range(p * len(tiles) // used, (p + 1) * len(tiles) // used)}
    for sequence, block in {one[:2] for one in tiles}:
        mine = [number for number, one in enumerate(tiles) if one[:2] == (sequence, block)]
        owners = sorted({owner[number] for number in mine})
        if len(owners) == 1:
            continue
        heads = slice(block * group, (block + 1) * group)
        expected[sequence, heads] = scores[sequence][block].softmax(-1) @ keys[sequence]
        for program in owners:
            which = torch.cat([torch.arange(9999)[tiles[number][2]] for number in mine if owner[number] == program])
            which = which[which < lengths[sequence]]
            score, place = scores[sequence][block][:, which] * LOG2_E, int(program == owners[0])
            stats[program, place, 0] = largest = score.amax(-1)
            shares = torch.exp2(score - largest[:, None])
            stats[program, place, 1], parts[program, place] = shares.sum(-1), shares @ keys[sequence][which]
    out = torch.full_like(q, float("nan"))
    attention_join.join(parts, stats, out, lengths, group=group, programs=programs, tile=tile, least_tiles=least)
    torch.testing.assert_close(out, expected, equal_nan=True)


def recorded(arguments, *, decodes, chunks, tokens):
    """Arguments of ops.attend, laid out with places for more decodes, chunks and tokens, of which the host does not
    know how many there are."""
    q, keys, values, sequences, scale, window = arguments
    first, start = sequences.decodes, sequences.query_start
    more, none_after = decodes - first, decodes + chunks - len(sequences.row) - (decodes - first)

    def placed(x, padding):
        return torch.cat([x[:first], padding.expand(more), x[first:], padding.expand(none_after)])

    no_row, none = torch.tensor([0]), torch.tensor([0], dtype=torch.int32)
    starts = torch.cat([start[:first], start[first].expand(more), start[first:], start[-1].expand(none_after)])
    q = torch.cat([q, q.new_zeros(tokens - len(q), *q.shape[1:])])
    places = Sequences(
        slot_table=sequences.slot_table,
        row=placed(sequences.row, no_row),
        query_start=starts,
        lengths=placed(sequences.lengths, none),
        decodes=decodes,
        query_lengths=[tokens] + [1] * (chunks - 1),
        context_lengths=None,
    )
    return q, keys, values, places, scale, window


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize(
    "sequences", [([1, 1, 40, 3], [70, 33, 64, 9]), ([30, 2], [30, 50]), ([1, 1], [9, 80]), ([], [])]
)
def test_programs_without_work_end(sequences, window):
    """Steps that a graph for more decodes, more chunks and more tokens serves, whatever these are."""
    torch.manual_seed(0)
    queries, lengths = sequences
    # A decode of length 1, which is taken out again where there is to be no sequence at all.
    facts = Facts(CPU, torch.float32)
    q, keys, values, all_of, scale, window = attention(
        facts, queries or [1], lengths or [1], heads=8, kv_heads=2, dim=16, window=window
    )
    if not queries:
        nobody = {"row": all_of.row[:0], "query_start": all_of.query_start[:1], "lengths": all_of.lengths[:0]}
        all_of = dataclasses.replace(all_of, **nobody, decodes=0)
    padded = recorded((q[: sum(queries)], keys, values, all_of, scale, window), decodes=5, chunks=3, tokens=64)
    got = TRITON_ATTENTION.attend(*clone(padded))
    torch.testing.assert_close(got[: sum(queries)], ops.attend.reference(*padded)[: sum(queries)], atol=1e-4, rtol=1e-4)
    assert not launch.arrivals(CPU).any()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("splits", [1, 2, 5])
def test_products_split_over_inputs_are_joined(splits, gated):
    torch.manual_seed(0)
    shape = matvec.Shape(outputs=32, inputs=64, splits=splits)
    op = ops.gated_linear if gated else ops.linear
    for tokens, outputs, inputs in [(1, 40, 300), (20, 64, 256)]:
        x, weight, bias = torch.randn(tokens, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        arguments = [tensor.bfloat16() for tensor in (x, weight * inputs**-0.5, bias)]
        assert_matches(op, functools.partial(matvec.multiply, shape=shape, gated=gated), arguments, torch.bfloat16)
    assert not launch.arrivals(CPU).any()


@pytest.mark.parametrize(("run", "hidden"), [(1, 256), (3, 768)])
def test_experts_round_to_8_bits_as_the_reference_does(run, hidden):
    """With scales for as many numbers as there; a second product that takes several tiles in a run."""
    torch.manual_seed(0)
    shape = experts.Shape(16, 128, 128, 4, 3, 128, 128, 4, 3, run)
    facts = Facts(CPU, torch.bfloat16)
    x, *matrices, choice, share, first = next(expert_cases_fp8(facts, [(20, 6, 4, 1, hidden, 128)]))
    wide, narrow = (
        expert_products.Matrices("scaled", weight, *weight.shape[1:], tuple(more))
        for weight, *more in (matrices[:4], matrices[4:])
    )
    got = experts.mixture(x, wide, narrow, choice, share, first, shape=shape).float()
    expected = ops.gated_experts_fp8_block.reference(x, *matrices, choice, share, first).float()
    assert (got - expected).norm() <= 5e-3 * expected.norm()


def routings(logits, bias):
    yield ops.route_softmax, (logits, 4, 1, 1, True, 1.0)
    yield ops.route_sigmoid, (logits, bias, 4, 4, 2, True, 1.0)


def test_a_token_of_no_numbers_chooses_experts_that_there_are_and_spoils_no_other():
    torch.manual_seed(0)
    logits, bias = torch.randn(3, 5, 12), torch.randn(12)
    expected = [op.reference(*given) for op, given in routings(logits, bias)]
    logits[1, 2] = float("nan")
    for (op, given), (choice, share) in zip(routings(logits, bias), expected, strict=True):
        got_choice, got_share = next(one.function for one in op.implementations if one.name == "triton")(*given)
        others = torch.arange(5) != 2
        assert torch.equal(got_choice[others], choice[others])
        torch.testing.assert_close(got_share[others], share[others])
        assert len(set(got_choice[2].tolist()) & set(range(12))) == 4
        assert got_share[2].isnan().all()


@pytest.mark.parametrize("many", [50, 10_000])
def test_rows_are_pairs_sorted_by_expert(many, monkeypatch):
    """However many pairs there are, and where none or nearly all are of one expert."""
    torch.manual_seed(0)
    monkeypatch.setattr(expert_rows, "MANY", many)
    monkeypatch.setattr(expert_rows, "SCANNED", (512, 512))
    for tokens, experts_in_all, first, here, block in [(1, 8, 0, 8, 16), (400, 6, 2, 3, 16), (500, 40, 0, 40, 64)]:
        choice = torch.rand(tokens, experts_in_all).topk(2).indices
        choice[: tokens // 2] = torch.tensor([first, first + 1])
        rows = expert_rows.sort(choice, first, here, block)
        local = choice.flatten() - first
        mine = ((local >= 0) & (local < here)).nonzero()[:, 0]
        expected = mine[local[mine].sort(stable=True).indices]
        assert torch.equal(rows.order[: len(mine)], expected.int())
        assert torch.equal(rows.place[expected], torch.arange(len(mine), dtype=torch.int32))
        assert (rows.place == -1).sum() == choice.numel() - len(mine)
        blocks = int(rows.table[0, 0])
        assert blocks <= rows.most_blocks
        covered = [
            (e, r) for e, low, end, _ in rows.table[1 : blocks + 1].tolist() for r in range(low, min(low + block, end))
        ]
        assert covered == list(zip(local[expected].tolist(), range(len(mine)), strict=True))


def test_more_candidates_than_fit_are_searched_in_place(monkeypatch):
    """Tokens that all pass, or nearly, are too many to be set aside."""
    torch.manual_seed(0)
    arguments = next(iter(ops.draw.cases(Facts(CPU, torch.float32))))
    rows, vocab = 4, 5000
    logits = torch.randn(rows, vocab) * 0.1
    wanted = [torch.full((rows,), value) for value in (1.0, vocab, 0.9, 0.0)]
    streams = [torch.arange(rows), torch.arange(rows)]
    assert len(wanted) + len(streams) + 1 == len(arguments)
    module = importlib.import_module("lightllm.compute.kernels.triton.sampling")
    monkeypatch.setattr(module, "MOST_CANDIDATES", 64)
    assert_matches(ops.draw, module.draw, [logits, *wanted, *streams], torch.float32)


class PlainNumbers:
    """What attention_prefill_hopper's arithmetic needs of Gluon's language, on Python's integers."""

    minimum, maximum = min, max


@pytest.mark.parametrize("window", [None, 1, 100, 300])
@pytest.mark.parametrize(("count", "length"), [(1, 1), (40, 40), (130, 1000), (300, 555), (512, 512)])
def test_long_chunks_take_every_tile_that_is_seen(count, length, window):
    """Gluon is not interpreted; which tiles it takes, and which without a mask, is checked against each row's view."""
    names = {"gl": PlainNumbers, "ROWS": attention_prefill_hopper.ROWS.value}
    tiles_of = types.FunctionType(attention_prefill_hopper._tiles.fn.__code__, names)
    for pack, tile in [(1, 128), (4, 128), (8, 64)]:
        rows = 2 * attention_prefill_hopper.ROWS.value
        for block in range(-(-count * pack // rows)):
            first, tiles, masked, whole = tiles_of(count, length, block, window or 0, pack, tile, window is not None)
            queries = [row // pack for row in range(block * rows, (block + 1) * rows) if row // pack < count]
            seen = [
                range(max(p - window + 1, 0) if window else 0, p + 1) for p in (length - count + q for q in queries)
            ]
            taken = [range(t * tile, (t + 1) * tile) for t in reversed(range(first, first + tiles))]
            for one in seen:
                assert taken[-1].start <= one.start
                assert one.stop <= taken[0].stop
                assert all(
                    one.start <= whole_tile.start and whole_tile.stop <= one.stop for whole_tile in taken[masked:whole]
                )


MIXTURES = (Mixture(4, 2, 64, 32, bits=16), Mixture(4, 2, 128, 128, bits=8))


def test_what_tuning_runs_is_the_op(monkeypatch):
    small = {"TOKENS": (16,), "DECODES": [(2, 20)], "LONG_CHUNKS": [(9, 20)], "SHORT_CHUNKS": [(3, 20)]}
    small["MIXTURE_TOKENS"] = (3,)
    for name, value in small.items():
        monkeypatch.setattr(tunable, name, value)
    sizes = ModelSizes((Product(48, 64, gated=False), Product(64, 32, gated=True)), (Heads(4, 2, 16),), MIXTURES)
    searched = list(tunable.tunables(sizes, Facts(CPU, torch.bfloat16)))
    assert [one.op for one in searched] == [
        "linear",
        "gated_linear",
        "attend decodes",
        "attend chunks",
        "attend chunks",
        "experts plain",
        "experts scaled",
    ]
    for one in searched:
        arguments = one.workloads[0].make()
        expected = one.reference(*arguments).float()
        for parameters in (one.default, one.candidates[-1]):
            got = one.run(parameters, *arguments).float()
            assert (got - expected).norm() <= tunable.WRONG * expected.norm()
