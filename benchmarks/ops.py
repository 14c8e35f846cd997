"""Every op, by every implementation, at serving sizes on this GPU: time, rate, and share of what the card can do.

    python -m benchmarks.ops [--json FILE] [--only TEXT] [--tune] [--warm I/N]

A time is the median of replays of a graph of calls, which take turns among copies of the arguments that together are
larger than the second cache; so it has in it what launching costs on the device, and nothing of the host. The share
is the floor, whichever is larger of bytes at the rate of reading and operations at the rate of a large product, both
measured first, over the time. --tune also measures launch parameters that are not chosen. --warm runs the I-th of
every N cases once and measures nothing: several such processes fill the compile cache faster than one.
"""

import argparse
import functools
import importlib
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightllm.compute import kernels, ops
from lightllm.compute.kernels.triton import attention_decode, attention_hopper, attention_prefill, launch, matvec
from lightllm.compute.ops.op import Op
from tests.compute.kernels.more_cases import attention

CACHE_BYTES = 256e6  # several times the second cache
MOST_COPIES = 24
REPLAYS = 7
REPLAY_S = 4e-3  # about how long one replay takes
CUDA = torch.device("cuda")
HALF = {"dtype": torch.bfloat16, "device": CUDA}
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Work to be timed. make: the arguments of one call; bytes_moved, operations: the least it needs."""

    op: str
    size: str
    implementation: str
    function: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    bytes_moved: float
    operations: float = 0.0


@dataclass
class Figure:
    op: str
    size: str
    implementation: str
    us: float
    spread: float  # of replays: (slowest - fastest) / median
    gb_s: float
    tflop_s: float
    share: float


@dataclass
class Figures:
    """What was measured, written out as it comes in."""

    path: Path | None
    roof: dict[str, float]
    rows: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, case: Case, seconds: float, spread: float) -> None:
        floor = max(case.bytes_moved / self.roof["read_bytes_s"], case.operations / self.roof["operations_s"])
        rates = (case.bytes_moved / seconds / 1e9, case.operations / seconds / 1e12)
        row = Figure(case.op, case.size, case.implementation, seconds * 1e6, spread, *rates, floor / seconds)
        self.rows.append(row)
        print(
            f"{row.op:18} {row.size:42} {row.implementation:44} {row.us:9.1f} us {row.spread:4.0%}"
            f" {row.gb_s:7.0f} GB/s {row.tflop_s:6.0f} TFLOP/s {row.share:5.0%}",
            flush=True,
        )
        self.write()

    def fail(self, case: Case, error: Exception) -> None:
        name = f"{case.op} {case.size} {case.implementation}"
        self.failures[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {self.failures[name][:300]}", flush=True)
        self.write()

    def write(self) -> None:
        if self.path is not None:
            rows = [asdict(row) for row in self.rows]
            self.path.write_text(json.dumps({"roof": self.roof, "rows": rows, "failures": self.failures}, indent=1))


def seconds_of(calls: list[Call]) -> tuple[float, float]:
    """Median time of a call in a graph that runs all of them in turn, and the spread."""
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    count = len(calls)
    while True:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in itertools.islice(itertools.cycle(calls), count):
                call()
        graph.replay()
        times = [_replay_s(graph) / count for _ in range(REPLAYS)]
        median = statistics.median(times)
        wanted = min(int(REPLAY_S / median), 400)
        if count >= wanted or count > len(calls):
            return median, (max(times) - min(times)) / median
        count = wanted


def _replay_s(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def measure_roof() -> dict[str, float]:
    big = torch.empty(1 << 31, dtype=torch.int8, device=CUDA).random_()
    target = torch.empty_like(big)
    copy = seconds_of([lambda: target.copy_(big)])[0]
    wide = big.view(torch.float32)
    read = seconds_of([lambda: torch.max(wide)])[0]
    a, b = torch.randn(2, 8192, 8192, **HALF)
    product = seconds_of([lambda: a @ b])[0]
    return {
        "copy_bytes_s": 2 * big.nbytes / copy,
        "sum_bytes_s": big.nbytes / read,
        # What has been read off this card by a kernel made for it: shared/bench/README.md.
        "read_bytes_s": 4.34e12,
        "operations_s": 2 * 8192**3 / product,
    }


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, **HALF)


def by_all(op: Op[..., Any], size: str, make: Callable[[], tuple[Any, ...]], **work: float) -> Iterator[Case]:
    """The case for each implementation that can run here, and for the reference."""
    for implementation in op.implementations:
        yield Case(op.name, size, implementation.name, implementation.function, make, **work)
    yield Case(op.name, size, "reference", op.reference, make, **work)


def elementwise_cases() -> Iterator[Case]:
    for tokens in (1, 64, 256, 8192):
        numbers = tokens * 4096
        make = functools.partial(lambda n: (randn(n, 4096), randn(n, 4096), randn(4096), 1e-5), tokens)
        yield from by_all(ops.add_rms_norm, f"{tokens} x 4096", make, bytes_moved=8 * numbers)
        make = functools.partial(lambda n: (randn(n, 2 * 14336),), tokens)
        yield from by_all(ops.silu_and_mul, f"{tokens} x 14336", make, bytes_moved=6 * tokens * 14336)
        for normed in (False, True):
            make = functools.partial(_store_arguments, tokens, normed)
            size = f"{tokens} tokens, 32/8 heads of 128{', normed' * normed}"
            yield from by_all(ops.norm_rotate_store, size, make, bytes_moved=4 * tokens * 48 * 128)
    weight = randn(128_256, 4096)
    for tokens in (1, 256, 8192):
        make = functools.partial(lambda n: (torch.randint(128_256, (n,), device=CUDA), weight, 0), tokens)
        yield from by_all(ops.embedding, f"{tokens} of 128256 x 4096", make, bytes_moved=4 * tokens * 4096)


def _store_arguments(tokens: int, normed: bool) -> tuple[Any, ...]:
    q, k, v = randn(tokens, 48, 128).split([32, 8, 8], dim=1)
    weights = [randn(128) if normed else None for _ in "qk"]
    positions, slots = torch.arange(tokens, device=CUDA), torch.randperm(2 * tokens, device=CUDA)[:tokens]
    pool = torch.zeros(2, 2 * tokens, 8, 128, **HALF)
    return q, k, v, *weights, 1e-6, positions, torch.rand(tokens, 128, device=CUDA), slots, *pool


DECODES = [(1, 1000), (8, 1000), (32, 1000), (64, 1024), (128, 1000), (256, 1000), (8, 8192), (2, 32768), (1, 65536)]
MORE_DECODES = [(8, 30_000), (1, 100_000), (256, 100), (64, 200)]
HEADS = {"32/8 heads": (32, 8), "64/8 heads": (64, 8), "16/8 heads": (16, 8)}


def decode_cases(tune: bool) -> Iterator[Case]:
    for name, (heads, kv_heads) in HEADS.items():
        for batch, length in DECODES + MORE_DECODES:
            yield _decode_case(f"{batch} x {length}, {name} of 128", [length] * batch, heads, kv_heads)
    lengths = torch.randint(1, 2000, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    yield _decode_case("256 x up to 2000, 32/8 heads of 128", lengths, 32, 8)
    for dim in (64, 80, 96, 192, 256):
        yield _decode_case(f"64 x 2000, 32/8 heads of {dim}", [2000] * 64, 32, 8, dim=dim)
    yield _decode_case("64 x 1024, 32/8 heads of 128, slots in order", [1024] * 64, 32, 8, ordered=True)
    yield _decode_case("64 x 1024, 32/8 heads of 128, heads first", [1024] * 64, 32, 8, heads_first=True)
    if tune:
        for tile, warps, stages, programs, least in [(128, 4, 4, 1, 1), (128, 4, 2, 2, 1), (128, 4, 3, 1, 2)]:
            shape = attention_decode.Shape(tile, warps, stages, programs, least)
            for name, (heads, kv_heads) in list(HEADS.items())[:2]:
                for batch, length in [(1, 1000), (64, 1024), (2, 32768)]:
                    yield _decode_case(
                        f"{batch} x {length}, {name} of 128", [length] * batch, heads, kv_heads, shape=shape
                    )
        for dim, sizes in {
            64: [(128, 4, 3, 2), (256, 4, 3, 1), (128, 4, 4, 2)],
            192: [(64, 4, 3, 1), (64, 8, 3, 1)],
            256: [(64, 4, 3, 1), (64, 8, 3, 1)],
        }.items():
            for size in sizes:
                shape = attention_decode.Shape(*size)
                yield _decode_case(f"64 x 2000, 32/8 heads of {dim}", [2000] * 64, 32, 8, dim=dim, shape=shape)


def _decode_case(
    size: str,
    lengths: list[int],
    heads: int,
    kv_heads: int,
    *,
    dim: int = 128,
    shape: attention_decode.Shape | None = None,
    ordered: bool = False,
    heads_first: bool = False,
) -> Case:
    def make():
        facts = launch.Facts(CUDA, torch.bfloat16)
        arguments = list(attention(facts, [1] * len(lengths), lengths, heads=heads, kv_heads=kv_heads, dim=dim))
        if ordered:
            arguments[3] = torch.arange(arguments[3].numel(), device=CUDA, dtype=torch.int32).view_as(arguments[3])
        if heads_first:
            arguments[1:3] = [pool.transpose(0, 1).contiguous().transpose(0, 1) for pool in arguments[1:3]]
        return tuple(arguments)

    def attend(q, keys, values, table, row, start, known, scale, window, *hints):
        out = torch.empty_like(q)
        attention_decode.attend_decodes(q, keys, values, table, row, known, scale, window, out, shape=shape)
        return out

    tokens = sum(lengths)
    name = "triton" if shape is None else _label(shape)
    work = {"bytes_moved": 4.0 * tokens * kv_heads * dim, "operations": 4.0 * tokens * heads * dim}
    return Case("attend decodes", size, name, attend, make, **work)


def _label(shape: Any) -> str:
    return "triton " + " ".join(f"{name}={value}" for name, value in asdict(shape).items())


CHUNKS = [(512, 512), (2048, 2048), (8192, 8192), (16384, 16384), (8192, 32768), (1024, 32768), (128, 8192), (16, 8192)]


def prefill_cases(tune: bool) -> Iterator[Case]:
    for count, length in CHUNKS:
        yield from _prefill_cases(count, length, 32, 8, 128)
    for dim in (64, 256):
        yield from _prefill_cases(16384, 16384, 16, 4, dim)
    for dim in (80, 96, 192):
        yield from itertools.islice(_prefill_cases(8192, 8192, 16, 4, dim), 2)
    yield from itertools.islice(_prefill_cases(8192, 8192, 28, 4, 128), 2)
    if tune:
        for count, length in [(128, 8192), (16, 8192)]:
            yield next(_prefill_cases(count, length, 32, 8, 128, shape=attention_prefill.Shape(64, 64, 4, 3)))


def _prefill_cases(
    count: int, length: int, heads: int, kv_heads: int, dim: int, shape: attention_prefill.Shape | None = None
) -> Iterator[Case]:
    seen = count * length - count * (count - 1) / 2
    size = f"{count} on {length}, {heads}/{kv_heads} heads of {dim}"
    work = {"bytes_moved": 4.0 * (length * kv_heads + count * heads) * dim, "operations": 4.0 * seen * heads * dim}
    facts = launch.Facts(CUDA, torch.bfloat16)
    make = functools.partial(attention, facts, [count], [length], heads=heads, kv_heads=kv_heads, dim=dim)

    def by_slots(q, keys, values, table, row, start, known, scale, window, *hints):
        out = torch.empty_like(q)
        attention_prefill.attend_chunks(
            q, keys, values, table, row, start, known, scale, window, [count], out, shape=shape
        )
        return out

    def by_copies(q, keys, values, table, row, start, known, scale, window, *hints):
        out = torch.empty_like(q)
        attention_hopper.attend_runs(q, keys, values, table, row, start, known, scale, window, [count], [length], out)
        return out

    yield Case("attend chunk", size, "triton by slots" if shape is None else _label(shape), by_slots, make, **work)
    if shape is None:
        yield Case("attend chunk", size, "gluon by copies", by_copies, make, **work)
    if count == length:
        for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
            yield Case(
                "attend chunk", size, f"torch {backend.name.lower()}, keys in a run",
                functools.partial(_library, backend),
                functools.partial(
                    lambda: tuple(randn(1, n, count, dim) for n in (heads, kv_heads, kv_heads))
                ),
                **work,
            )  # fmt: skip


def _library(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


MATRICES = {
    "8b qkv": (6144, 4096),
    "8b o": (4096, 4096),
    "8b gate_up": (28672, 4096),
    "8b down": (4096, 14336),
    "8b head": (128256, 4096),
    "0.6b qkv": (4096, 1024),
    "0.6b o": (1024, 2048),
    "0.6b gate_up": (6144, 1024),
    "0.6b down": (1024, 3072),
}
MORE_SHAPES = [(64, 128, 1, 4, 4), (64, 128, 4, 4, 4), (64, 64, 1, 4, 5), (32, 256, 1, 4, 4), (32, 128, 4, 4, 5)]


def linear_cases(tune: bool) -> Iterator[Case]:
    for (name, (outputs, inputs)), tokens in itertools.product(MATRICES.items(), (1, 8, 16, 32, 64)):
        size = f"{tokens} tokens, {name} {outputs} x {inputs}"
        make = functools.partial(lambda t, o, i: (randn(t, i), randn(o, i) * i**-0.5, None), tokens, outputs, inputs)
        work = {
            "bytes_moved": 2.0 * (outputs * inputs + tokens * (inputs + outputs)),
            "operations": 2.0 * tokens * outputs * inputs,
        }
        yield from by_all(ops.linear, size, make, **work)
        if tune and tokens == 32:
            for shape in itertools.starmap(matvec.Shape, MORE_SHAPES):
                yield Case("linear", size, _label(shape), functools.partial(_with_shape, shape), make, **work)


def _with_shape(shape: matvec.Shape, x: Tensor, weight: Tensor, bias: None) -> Tensor:
    return matvec.multiply(x, weight, bias, shape)


def sampling_cases() -> Iterator[Case]:
    for rows, (kind, temperature, top_k, top_p) in itertools.product(
        (1, 64, 256),
        [
            ("greedy", 0.0, 128_256, 1.0),
            ("random", 0.6, 128_256, 1.0),
            ("top-p", 0.6, 128_256, 0.9),
            ("top-k", 1, 50, 1),
        ],
    ):

        def make(rows=rows, temperature=temperature, top_k=top_k, top_p=top_p):
            numbers = [torch.full((rows,), float(value), device=CUDA) for value in (temperature, top_p, 0)]
            kept = torch.full((rows,), top_k, device=CUDA)
            streams = torch.arange(rows, device=CUDA)
            return randn(rows, 128_256) * 3, numbers[0], kept, numbers[1], numbers[2], streams, streams

        yield from by_all(ops.draw, f"{rows} x 128256, {kind}", make, bytes_moved=2.0 * rows * 128_256)
    for rows in (1, 256):
        make = functools.partial(lambda n: (randn(n, 128_256) * 3, torch.arange(n, device=CUDA), 0), rows)
        yield from by_all(ops.logprobs, f"{rows} x 128256", make, bytes_moved=2.0 * rows * 128_256)


LAYERS = 4  # of a stack that is timed as a whole
STACKS = list(itertools.product(("library", "triton"), (False, True)))  # products by, whether launched dependently


def stack_cases() -> Iterator[Case]:
    """Whole decode layers of Llama-3.1-8B, so that what lies between kernels counts."""
    for tokens, length in [(1, 1000), (8, 1000), (32, 1000), (64, 1000), (256, 1000)]:
        for product, dependent in STACKS:
            if tokens <= matvec.MOST_TOKENS or product == "library":
                name = f"{product} products{', dependent' * dependent}"
                function = functools.partial(_stack, product, dependent)
                make = functools.partial(_stack_arguments, tokens, length)
                read = 2.0 * (6144 * 4096 + 4096**2 + 3 * 14336 * 4096) + 4.0 * tokens * length * 8 * 128
                yield Case(f"{LAYERS} layers", f"{tokens} x {length}", name, function, make, bytes_moved=LAYERS * read)


def _stack_arguments(tokens: int, length: int) -> tuple[Any, ...]:
    sizes = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)]
    weights = [[randn(*size) * size[1] ** -0.5 for size in sizes] for _ in range(LAYERS)]
    facts = launch.Facts(CUDA, torch.bfloat16)
    states = [attention(facts, [1] * tokens, [length] * tokens, heads=32, kv_heads=8, dim=128) for _ in range(LAYERS)]
    positions = torch.full((tokens,), length - 1, device=CUDA)
    slots = [state[3][state[4], length - 1].long() for state in states]
    table = torch.rand(length, 128, device=CUDA)
    return randn(tokens, 4096), randn(4096), weights, states, positions, slots, table


def _stack(product: str, dependent: bool, x: Tensor, norm: Tensor, *rest: Any) -> Tensor:
    weights, states, positions, slots, table = rest
    add, store, act, attend = (
        _kernel(op) for op in (ops.add_rms_norm, ops.norm_rotate_store, ops.silu_and_mul, ops.attend)
    )
    linear = ops.linear.reference if product == "library" else _kernel(ops.linear)
    card = launch.card
    if not dependent:
        launch.card = lambda device: launch.Card((8, 0), card(device).multiprocessors)
    residual = x
    for (qkv, o, gate_up, down), state, slot in zip(weights, states, slots, strict=True):
        _, keys, values, *where = state
        x, residual = add(x, residual, norm, 1e-5)
        q, k, v = linear(x, qkv, None).unflatten(-1, (-1, 128)).split([32, 8, 8], dim=1)
        q = store(q, k, v, None, None, 0.0, positions, table, slot, keys, values)
        x = linear(attend(q, keys, values, *where).flatten(1), o, None)
        x, residual = add(x, residual, norm, 1e-5)
        x = linear(act(linear(x, gate_up, None)), down, None)
    launch.card = card
    return x


def _kernel(op: Op[..., Any]) -> Callable[..., Any]:
    return next(implementation.function for implementation in op.implementations if implementation.name == "triton")


def all_cases(tune: bool) -> list[Case]:
    """What is chosen first, then launch parameters that are not."""
    cases = [
        *elementwise_cases(),
        *decode_cases(tune),
        *prefill_cases(tune),
        *sampling_cases(),
        *stack_cases(),
        *linear_cases(tune),
    ]
    return sorted(cases, key=lambda case: "=" in case.implementation)


def calls_of(case: Case) -> list[Call]:
    copies = min(max(int(CACHE_BYTES / case.bytes_moved), 1), MOST_COPIES)
    return [functools.partial(case.function, *case.make()) for _ in range(copies)]


def warm(cases: list[Case]) -> None:
    for case in cases:
        try:
            case.function(*case.make())
            torch.cuda.synchronize()
        except Exception as error:  # noqa: BLE001 (a case that fails is reported where it is timed)
            print(f"{case.op} {case.size} {case.implementation}: {error}"[:300])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="only cases whose op, size or implementation contains this")
    parser.add_argument("--skip", action="append", default=[], help="no cases that contain this; may be repeated")
    parser.add_argument("--tune", action="store_true", help="also measure launch parameters that are not chosen")
    parser.add_argument("--warm", help="I/N: only compile every N-th case from the I-th on")
    arguments = parser.parse_args()
    for module in kernels.MODULES["cuda"]:
        importlib.import_module(module)
    torch.manual_seed(0)
    named = {f"{case.op} {case.size} {case.implementation}": case for case in all_cases(arguments.tune)}
    cases = [
        case
        for name, case in named.items()
        if arguments.only in name and not any(text in name for text in arguments.skip)
    ]
    if arguments.warm:
        first, every = map(int, arguments.warm.split("/"))
        warm(cases[first::every])
        return
    figures = Figures(arguments.json, measure_roof())
    print(figures.roof, flush=True)
    for case in cases:
        try:
            figures.add(case, *seconds_of(calls_of(case)))
        except Exception as error:  # noqa: BLE001 (one case must not cost the others)
            figures.fail(case, error)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
