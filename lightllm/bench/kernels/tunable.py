"""The kernels whose launch parameters `lightllm tune` searches: at which sizes, among which parameters."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.bench.kernels.cuda_cases import attend_chunks, attend_decodes
from lightllm.bench.kernels.model_sizes import Heads, Mixture, ModelSizes, Product
from lightllm.bench.kernels.timing import Case, seconds_of
from lightllm.compute import ops
from lightllm.compute.kernels.triton import (
    attention_decode,
    attention_decode_quantized,
    attention_prefill,
    experts,
    matvec,
    matvec_hopper,
)
from lightllm.compute.kernels.triton.launch import is_hopper
from lightllm.compute.kernels.triton.tuned import key
from lightllm.compute.ops.attention import arguments
from lightllm.compute.ops.fp8_block import random_matrix
from lightllm.compute.ops.kv_formats import quantized
from lightllm.compute.ops.op import Facts

SHARED_BYTES = 220_000  # that one program may have, about
TOKENS = (16, 32, 64)  # what few tokens are padded to
DECODES = [(1, 1000), (64, 1024), (2, 32768)]
LONG_CHUNKS, SHORT_CHUNKS = [(2048, 2048), (1024, 16384)], [(16, 8192), (64, 8192)]
MIXTURE_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
WRONG = 4e-2  # relative norm of the difference to the reference: more than 16 bits, or rounding to 8, can make


@dataclass(frozen=True)
class Tunable:
    """An op at some sizes. run(parameters) is the op; None as parameters is the library, where that is one."""

    op: str
    kind: type[Any]
    sizes: tuple[int, ...]
    default: Any
    candidates: Sequence[Any]
    run: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    workloads: Sequence[Case]  # whose function is not used

    def measure(self, parameters: Any, device: torch.device) -> list[float]:
        """Seconds of each workload. Raises ValueError for a wrong result, and whatever the kernel raises."""
        run = functools.partial(self.run, parameters)
        made = self.workloads[0].make()
        expected, got = self.reference(*made).float(), run(*made).float()
        error = float((got - expected).norm() / expected.norm())
        if not error <= WRONG:
            raise ValueError(f"differs from the reference by {error:.3f}")
        cases = [Case(one.op, one.size, "", run, one.make, one.bytes_moved) for one in self.workloads]
        return [seconds_of(case.calls(device), device)[0] for case in cases]


def tunables(sizes: ModelSizes, facts: Facts) -> Iterator[Tunable]:
    """Of one model on one GPU, in the dtype of `facts`, which has 16 bits."""
    for product, tokens in itertools.product(sizes.products, TOKENS):
        yield _product(product, tokens, facts)
    for heads in {heads.dim: heads for heads in sizes.heads}.values():
        yield _decodes(heads, facts)
        if is_hopper(facts.device) and heads.dim in attention_decode_quantized.DIMS:
            yield from (_quantized_decodes(heads, kind, facts) for kind in (torch.float8_e4m3fn, torch.uint8))
        for is_long in (True, False):
            yield _chunks(heads, is_long, facts)

    for mixture, tokens in itertools.product(sizes.mixtures, MIXTURE_TOKENS):
        yield mixture_tunable(mixture, tokens, facts)


def _product(product: Product, tokens: int, facts: Facts) -> Tunable:
    streams = is_hopper(facts.device) and product.inputs % 8 == 0
    module = matvec_hopper if streams else matvec
    candidates = _streams(product, tokens) if streams else _tiles(tokens)
    op = ops.gated_linear if product.gated else ops.linear
    size = (tokens, product.outputs, product.inputs)

    def make() -> tuple[Any, ...]:
        like = {"dtype": facts.dtype, "device": facts.device}
        weight = torch.randn(product.outputs, product.inputs, **like) * product.inputs**-0.5
        return torch.randn(tokens, product.inputs, **like), weight, None

    def run(parameters: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if parameters is not None:
            return module.multiply(x, weight, bias, parameters, gated=product.gated)
        y = F.linear(x, weight, bias)
        return ops.silu_and_mul(y) if product.gated else y

    case = Case(op.name, str(size), "", run, make, bytes_moved=2.0 * product.outputs * product.inputs)
    default = module.shape_for(*size, gated=product.gated)
    return Tunable(op.name, module.Shape, size, default, [None, *candidates], run, op.reference, [case])


def _tiles(tokens: int) -> list[matvec.Shape]:
    made = itertools.starmap(
        matvec.Shape, itertools.product((16, 32, 64, 128), (64, 128, 256), (1, 2, 4, 8), (4,), (3, 4, 5))
    )
    return [one for one in made if 2 * (one.outputs + tokens) * one.inputs * one.stages <= SHARED_BYTES]


def _streams(product: Product, tokens: int) -> list[matvec_hopper.Shape]:
    halves, splits = ((2,), (1,)) if product.gated else ((1, 2), (1, 2, 4, 8))
    made = itertools.starmap(matvec_hopper.Shape, itertools.product((64, 128, 256), (2, 3, 4, 5, 6, 8), splits, halves))
    return [one for one in made if 2 * (one.rows * one.halves + tokens) * one.inputs * one.stages <= SHARED_BYTES]


def mixture_tunable(mixture: Mixture, tokens: int, facts: Facts) -> Tunable:
    """All of a mixture but its router, for tokens that choose evenly."""
    form, op = ("plain", ops.gated_experts) if mixture.bits == 16 else ("scaled", ops.gated_experts_fp8_block)
    sizes = (tokens, mixture.top_k, mixture.experts, 2 * mixture.width, mixture.hidden)

    def matrix(outputs: int, inputs: int) -> tuple[Tensor, ...]:
        if mixture.bits == 8:
            return random_matrix(outputs, inputs, facts, experts=mixture.experts, start=0)
        make = {"dtype": facts.dtype, "device": facts.device}
        return (torch.empty(mixture.experts, outputs, inputs, **make).normal_(std=inputs**-0.5),)

    def make() -> tuple[Any, ...]:
        choice = torch.rand(tokens, mixture.experts, device=facts.device).topk(mixture.top_k).indices
        share = torch.rand(tokens, mixture.top_k, device=facts.device)
        matrices = *matrix(2 * mixture.width, mixture.hidden), *matrix(mixture.hidden, mixture.width)
        x = torch.randn(tokens, mixture.hidden, dtype=facts.dtype, device=facts.device)
        return x, *matrices, choice, share, 0

    def run(parameters: Any, x: Tensor, *others: Any) -> Tensor:
        *matrices, choice, share, first = others
        half = len(matrices) // 2
        wide, narrow = (
            experts.Matrices(form, weight, weight.shape[1], weight.shape[2], tuple(more))
            for weight, *more in (matrices[:half], matrices[half:])
        )
        return experts.mixture(x, wide, narrow, choice, share, first, shape=parameters)

    # However few are chosen, so that one copy is made.
    moved = float(mixture.experts * 3 * mixture.hidden * mixture.width * mixture.bits // 8)
    case = Case(op.name, key(sizes), "", run, make, bytes_moved=moved)
    default = experts.shape_for(form, tokens, mixture.experts, mixture.top_k, facts.dtype)
    return Tunable(
        f"experts {form}", experts.Shape, sizes, default, _mixture_shapes(mixture, tokens), run, op.reference, [case]
    )


def _mixture_shapes(mixture: Mixture, tokens: int) -> list[experts.Shape]:
    """Tiles of both products that were best somewhere. What a scale is for in 8 bits, tiles must divide."""
    mean = tokens * mixture.top_k / mixture.experts
    blocks = [rows for rows in (16, 32, 64, 128) if rows == 16 and mean <= 16 or 0.5 * rows <= mean <= 8 * rows]
    if mixture.bits == 16:
        wide = [(64, 64, 4, 4), (64, 64, 4, 6), (64, 128, 4, 3), (128, 64, 8, 3), (128, 64, 8, 4)]
        narrow = [(64, 64, 4, 4), (128, 64, 4, 4), (64, 128, 4, 4), (128, 64, 8, 4), (128, 128, 8, 3), (256, 64, 8, 3)]
    else:
        wide = [(64, 128, 4, 4), (64, 128, 4, 6), (128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 4)]
        narrow = [(128, 64, 4, 4), (256, 64, 8, 4), (128, 128, 4, 2), (128, 128, 4, 3, 2), (128, 128, 4, 3, 8)]
    return [
        experts.Shape(rows, *one, *other)
        for rows, one, other in itertools.product(blocks or [128], wide, narrow)
        if mixture.bits == 16 or other[1] <= one[0]
    ]


def _decodes(heads: Heads, facts: Facts) -> Tunable:
    """One choice for all batches: three of them count alike."""
    candidates = itertools.starmap(
        attention_decode.Shape, itertools.product((32, 64, 128, 256), (4, 8), (2, 3, 4), (1, 2), (1, 2))
    )
    workloads = [
        _attention_case("attend decodes", [1] * batch, [length] * batch, heads, facts) for batch, length in DECODES
    ]
    return Tunable(
        "attend decodes", attention_decode.Shape, (heads.dim,), attention_decode.shape_for(heads.dim, facts.dtype),
        list(candidates), _with_shape(attend_decodes), ops.attend.reference, workloads,
    )  # fmt: skip


def _quantized_decodes(heads: Heads, kind: torch.dtype, facts: Facts) -> Tunable:
    """The same of pools of 8 or 4 bits, for which kinds of 8 bits count alike."""
    width = heads.dim // (2 if kind == torch.uint8 else 1)
    candidates = [
        attention_decode_quantized.Shape(tile, stages, programs)
        for tile, stages, programs in itertools.product((64, 128), (3, 4, 6), (2, 3, 4))
        if 2 * tile * (width + 4) * stages * programs <= SHARED_BYTES
    ]
    sizes = heads.dim, width
    default = attention_decode_quantized.shape_for(heads.dim)
    workloads = []
    for batch, length in DECODES:
        case = _attention_case("attend quantized decodes", [1] * batch, [length] * batch, heads, facts)
        make = functools.partial(_quantized, case.make, kind)
        workloads.append(replace(case, make=make, bytes_moved=case.bytes_moved * (width + 4) / (2 * heads.dim)))

    def run(parameters: Any, *made: Any) -> Tensor:
        q, keys, key_scale, values, value_scale, all_of, scale, window = made
        out, scales = torch.empty_like(q), (key_scale, value_scale)
        where = all_of.slot_table, all_of.row, all_of.lengths
        attention_decode_quantized.attend_decodes(
            q, keys, values, *where, scale, window, out, scales=scales, shape=parameters
        )
        return out

    return Tunable(
        "attend quantized decodes", attention_decode_quantized.Shape, sizes, default, candidates, run,
        ops.attend_quantized.reference, workloads,
    )  # fmt: skip


def _quantized(make: Callable[[], tuple[Any, ...]], kind: torch.dtype) -> tuple[Any, ...]:
    """Arguments of attend_quantized as those of attend are made."""
    q, keys, values, *rest = make()
    return q, *quantized(keys, kind), *quantized(values, kind), *rest


def _chunks(heads: Heads, is_long: bool, facts: Facts) -> Tunable:
    candidates = itertools.starmap(
        attention_prefill.Shape, itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
    )
    lengths = LONG_CHUNKS if is_long else SHORT_CHUNKS
    workloads = [_attention_case("attend chunks", [count], [length], heads, facts) for count, length in lengths]
    rows = attention_prefill.LONG_ROWS + 1 if is_long else attention_prefill.LONG_ROWS
    return Tunable(
        "attend chunks", attention_prefill.Shape, (heads.dim, int(is_long)),
        attention_prefill.shape_for(heads.dim, facts.dtype, rows), list(candidates), _with_shape(attend_chunks),
        ops.attend.reference, workloads,
    )  # fmt: skip


def _attention_case(op: str, queries: list[int], lengths: list[int], heads: Heads, facts: Facts) -> Case:
    make = functools.partial(
        arguments, facts, queries, lengths, heads=heads.heads, kv_heads=heads.kv_heads, dim=heads.dim
    )
    moved = 4.0 * sum(lengths) * heads.kv_heads * heads.dim
    return Case(op, f"{queries} on {lengths}", "", ops.attend.reference, make, bytes_moved=moved)


def _with_shape(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda parameters, *made: attend(*made, shape=parameters)
