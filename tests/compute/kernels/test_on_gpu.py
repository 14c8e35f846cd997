"""On a GPU, kernels compute what references do on float32 copies of the same numbers. Compared by relative norm."""

import importlib
import itertools
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which comes with PyTorch for CUDA")
from lightllm.compute import kernels, ops
from lightllm.compute.kernels.triton import launch
from lightllm.compute.ops import kv_formats, per_channel
from lightllm.compute.ops.op import ALL, Facts
from tests.compute.kernels.more_cases import CASES, LARGE_CASES, attention, in_runs, quantized
from tests.compute.ops.test_parity import LIMITS_OF_POOLS, clone, meant, split_pools, tensors

pytestmark = pytest.mark.gpu
for module in kernels.MODULES["cuda"]:
    importlib.import_module(module)
# ||got - expected|| / ||expected||. bf16 rounds by up to 2^-9; what is summed in float32 is rounded once or twice.
LIMITS = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
# Where activations of 16 bits are rounded to 8, and kernels have scales for fewer of them than references. Products of
# 8-bit floats keep few bits while the matrix unit adds them up.
LIMITS_OF = {
    "gated_experts_fp8_block": 4e-2,
    "gated_linear_of_rounded": 6e-3,
    "gated_linear_per_channel": 6e-3,
    "gated_linear_rounded": 6e-3,
    "linear_of_rounded": 6e-3,
    "linear_of_rounded_in_parts": 6e-3,
    "linear_per_channel": 6e-3,
    "logits": 1e-5,
}
# What rounding x and what is gated costs, by a CPU's sums: 1.6e-2 and 4.3e-2, with one token at most 1.9e-2 and 5e-2.
LIMITS_OF_EXPERTS = {torch.int8: 2.5e-2, torch.float8_e4m3fn: 6e-2}
EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)
PARTS = 4  # of the cases, so that processes side by side compile for as long as one another
IMPLEMENTATIONS = {
    op.name: implementation
    for op in ALL.values()
    for implementation in op.implementations
    if implementation.name in ("triton", "gluon")
}
KERNELS = {name: implementation.function for name, implementation in IMPLEMENTATIONS.items()}


def device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def widened(arguments):
    """Floats of 16 bits as float32."""
    return [
        x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() and x.itemsize > 1 else x
        for x in clone(arguments)
    ]


def poison() -> None:
    """Fill what the allocator hands out next with NaN, so that what is not written is found."""
    freed = [torch.full((1 << size,), float("nan"), device=device()) for size in range(8, 26)]
    del freed


def assert_close(got, expected, limit):
    got, expected = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (got, expected))
    for one, other in zip(tensors(got), tensors(expected), strict=True):
        assert one.shape == other.shape
        if not one.is_floating_point():
            assert torch.equal(one, other)
        elif not torch.equal(one, other):
            error = torch.linalg.vector_norm(one.double() - other.double()) / torch.linalg.vector_norm(other.double())
            assert error <= limit, f"relative error {error:.1e}, limit {limit:.0e}"


def results(name, outcome):
    """8-bit numbers as what they are, since some may be rounded up instead of down."""
    outcome = meant(name, outcome)
    found = outcome if isinstance(outcome, tuple) else (outcome,)
    return [one.double() if isinstance(one, torch.Tensor) and one.dtype in EIGHT_BITS else one for one in found]


def computed(name, wide):
    """What the op's reference computes, without rounding anything but what it is told to."""
    if name.endswith("linear_per_channel"):
        x, weight, scale, bias, rounds = wide
        if rounds and x.dtype != torch.float32:
            x = per_channel.dequantized(*per_channel.quantized(x, weight.dtype), torch.float32)
        return ALL[name].reference(*widened([x, weight, scale, bias]), False)
    if name.endswith(("linear_of_rounded", "linear_rounded", "of_rounded_in_parts")):
        return ALL[name].reference(*widened(wide[:-1]), torch.float32)
    if name == "gated_experts_per_channel":
        # References have a scale for a token, kernels for each 64 or 128 numbers of it: both err, kernels less.
        return ALL[name].reference(*widened(wide[:8]), False, *widened(wide[9:]))
    return ALL[name].reference(*wide)


def check(name, arguments, dtype):
    # Where activations of 16 bits are rounded to 8 the reference must do so, too.
    rounds = any(word in name for word in ("fp8", "per_channel", "rounded"))
    wide, mine = clone(arguments) if rounds else widened(arguments), clone(arguments)
    expected = results(name, computed(name, wide))
    poison()
    limit = LIMITS[dtype] if dtype == torch.float32 else LIMITS_OF.get(name, LIMITS[dtype])
    if name == "gated_experts_per_channel" and dtype != torch.float32:
        limit = LIMITS_OF_EXPERTS[arguments[1].dtype]
    if name == "gated_linear_rounded" and dtype == torch.float32:
        limit = 6e-3  # one number in many is rounded to the next one
    # Some of these values are a thousandth of others, whose rounding they share.
    limit = 1e-4 if name.endswith("quantized") and dtype == torch.float32 else limit
    assert_close(results(name, KERNELS[name](*mine)), expected, limit)
    (pools, mine), (expected_pools, wide) = split_pools(mine), split_pools(wide)
    assert_close(mine, wide, LIMITS[dtype])
    for (_, one), (kind, other) in zip(pools, expected_pools, strict=True):
        assert_close(one, other, LIMITS_OF_POOLS[kind])
    torch.cuda.empty_cache()


def skip_unless_able(name, facts):
    if reason := IMPLEMENTATIONS[name].why_not(facts):
        pytest.skip(reason)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("dtype", launch.DTYPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_matches_reference(name, dtype, part):
    torch.manual_seed(0)
    facts = Facts(device(), dtype)
    assert launch.why_not(facts) is None
    skip_unless_able(name, facts)
    cases = itertools.chain(ALL[name].cases(facts), CASES[name](facts))
    for arguments in itertools.islice(cases, part, None, PARTS):
        check(name, arguments, dtype)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_matches_reference_at_serving_sizes(name, dtype, part):
    torch.manual_seed(1)
    facts = Facts(device(), dtype)
    skip_unless_able(name, facts)
    for arguments in itertools.islice(LARGE_CASES[name](facts), part, None, PARTS):
        check(name, arguments, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", EIGHT_BITS, ids=str)
def test_every_weight_of_8_bits_is_multiplied_as_what_it_is(kind, dtype):
    """Each token picks an input; each output has all numbers there are, in another order."""
    number = torch.arange(256, dtype=torch.uint8, device=device()).view(kind)
    # The first and the last number that is none, of E4M3.
    number = torch.where(number.float().isnan(), 0.0, number.float()).to(kind)
    weight = torch.stack([number.view(torch.uint8).roll(7 * row) for row in range(80)]).view(kind)
    x = torch.eye(256, dtype=dtype, device=device())
    for some in (x, x[:128], x[128:], x[40:41]):
        got = KERNELS["linear_per_channel"](some, weight, torch.ones(80, device=device()), None, False)
        assert torch.equal(got.float(), some.float() @ weight.float().T)


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("window", [None, 1000])
def test_long_chunks_match_reference(dim, window):
    """Blocks and tiles that end anywhere, several sequences, contexts from empty prefixes to 100k."""
    torch.manual_seed(2)
    # Kinds of heads are compiled for one by one, each in some ten seconds.
    for dtype, kinds in [(torch.bfloat16, [(8, 2), (7, 1), (2, 2)]), (torch.float16, [(8, 2)])]:
        facts = Facts(device(), dtype)
        for queries, lengths in [([1024], [1024]), ([1500, 129], [1500, 7777]), ([1, 1, 1100, 40], [9, 900, 2200, 40])]:
            for heads, kv_heads in kinds:
                sizes = {"heads": heads, "kv_heads": kv_heads, "dim": dim, "window": window}
                arguments = attention(facts, queries, lengths, **sizes)
                check("attend", arguments, dtype)
                check("attend", in_runs(arguments), dtype)
    sizes = {"heads": 4, "kv_heads": 1, "dim": dim, "window": window}
    check("attend", attention(facts, [300], [100_001], **sizes), dtype)


@pytest.mark.parametrize("kind", [None, *kv_formats.KINDS], ids=str)
def test_a_captured_decode_serves_other_lengths(kind):
    """A graph captured at one length is replayed at others, with kernels launched dependently before and after; the
    last sequences may have no tokens."""
    torch.manual_seed(3)
    facts = Facts(device(), torch.bfloat16)
    captured = attention(facts, [1] * 24, [4000] * 24, heads=32, kv_heads=8, dim=128)
    name = "attend" if kind is None else "attend_quantized"
    q, *pools, sequences, scale, window = captured if kind is None else quantized(kind, captured)
    weight = torch.randn(128, dtype=facts.dtype, device=facts.device)

    def step():
        normed = KERNELS["rms_norm"](q, weight, 1e-6)
        out = KERNELS[name](normed, *pools, replace(sequences, memo={}), scale, window)  # a step's own memo
        return KERNELS["rms_norm"](out, weight, 1e-6)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    for shortest, longest, count in ((1, 1, 24), (1, 2, 24), (1, 70, 5), (1, 4000, 24), (1100, 1100, 24), (1, 4000, 1)):
        q.normal_()
        sequences.lengths.copy_(torch.randint(shortest, longest + 1, (24,)))
        sequences.lengths[count:] = 0
        graph.replay()
        graph.replay()
        wide_q, wide_weight, *wide_pools = widened([q, weight, *pools])
        normed = ops.rms_norm.reference(wide_q, wide_weight, 1e-6)
        starts = sequences.query_start[: count + 1]
        there = replace(sequences, row=sequences.row[:count], query_start=starts, lengths=sequences.lengths[:count])
        out = ALL[name].reference(normed[:count], *wide_pools, there, scale, window)
        assert_close(got[:count], ops.rms_norm.reference(out, wide_weight, 1e-6), LIMITS[torch.bfloat16])
    assert not launch.arrivals(device()).any()
