"""What only a GPU is asked: kernels one by one, other layouts and heads, the library's attention, whole layers."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightllm.bench.kernels.timing import Case
from lightllm.compute import ops
from lightllm.compute.kernels.triton import (
    attention_decode,
    attention_prefill,
    attention_prefill_hopper,
    launch,
    matvec,
)
from lightllm.compute.ops.attention import Sequences, arguments
from lightllm.compute.ops.op import Facts, Op

DECODES = [(8, 1000), (64, 1024), (256, 1000), (2, 32768), (1, 65536), (1, 100_000), (256, 100)]
HEADS = {"64/8 heads": (64, 8), "16/8 heads": (16, 8)}
CHUNKS = [(512, 512), (2048, 2048), (8192, 8192), (16384, 16384), (8192, 32768), (1024, 32768), (128, 8192), (16, 8192)]
LAYERS = 4  # of a stack that is timed as a whole


class CudaCases:
    """In 16 bits, on one GPU."""

    def __init__(self, facts: Facts):
        self._facts = facts
        self._like = {"dtype": facts.dtype, "device": facts.device}

    def all(self) -> Iterator[Case]:
        yield from self.decodes()
        yield from self.chunks()
        yield from self.stacks()

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, **self._like)

    # ---- decode attention ----

    def decodes(self) -> Iterator[Case]:
        for (name, (heads, kv_heads)), (batch, length) in itertools.product(HEADS.items(), DECODES):
            yield self._decode(f"{batch} x {length}, {name} of 128", [length] * batch, heads, kv_heads)
        lengths = torch.randint(1, 2000, (256,), generator=torch.Generator().manual_seed(0)).tolist()
        yield self._decode("256 x up to 2000, 32/8 heads of 128", lengths, 32, 8)
        for dim in (64, 80, 96, 192, 256):
            yield self._decode(f"64 x 2000, 32/8 heads of {dim}", [2000] * 64, 32, 8, dim=dim)
        yield self._decode("64 x 1024, 32/8 heads of 128, slots in order", [1024] * 64, 32, 8, ordered=True)
        yield self._decode("64 x 1024, 32/8 heads of 128, heads first", [1024] * 64, 32, 8, heads_first=True)

    def _decode(
        self,
        size: str,
        lengths: list[int],
        heads: int,
        kv_heads: int,
        *,
        dim: int = 128,
        ordered: bool = False,
        heads_first: bool = False,
    ) -> Case:
        def make() -> tuple[Any, ...]:
            made = list(arguments(self._facts, [1] * len(lengths), lengths, heads=heads, kv_heads=kv_heads, dim=dim))
            if ordered:
                made[3] = torch.arange(made[3].numel(), device=made[3].device, dtype=torch.int32).view_as(made[3])
            if heads_first:
                made[1:3] = [pool.transpose(0, 1).contiguous().transpose(0, 1) for pool in made[1:3]]
            return tuple(made)

        tokens = sum(lengths)
        work: dict[str, Any] = {"bytes_moved": 4.0 * tokens * kv_heads * dim, "operations": 4.0 * tokens * heads * dim}
        return Case("attend decodes", size, "triton", attend_decodes, make, **work)

    # ---- attention of chunks ----

    def chunks(self) -> Iterator[Case]:
        for count, length in CHUNKS:
            yield from self._chunk(count, length, 32, 8, 128)
        for dim in (64, 256):
            yield from self._chunk(16384, 16384, 16, 4, dim)
        for dim in (80, 96, 192):
            yield from itertools.islice(self._chunk(8192, 8192, 16, 4, dim), 2)
        yield from itertools.islice(self._chunk(8192, 8192, 28, 4, 128), 2)

    def _chunk(self, count: int, length: int, heads: int, kv_heads: int, dim: int) -> Iterator[Case]:
        """By slots, by copies, and by the library, which needs keys in a run."""
        seen = count * length - count * (count - 1) / 2
        size = f"{count} on {length}, {heads}/{kv_heads} heads of {dim}"
        work: dict[str, Any] = {
            "bytes_moved": 4.0 * (length * kv_heads + count * heads) * dim,
            "operations": 4.0 * seen * heads * dim,
        }
        make = functools.partial(arguments, self._facts, [count], [length], heads=heads, kv_heads=kv_heads, dim=dim)
        yield Case("attend chunk", size, "triton by slots", attend_chunks, make, **work)
        yield Case("attend chunk", size, "gluon by copies", attend_runs, make, **work)
        if count == length:
            for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
                make = functools.partial(
                    lambda: tuple(self.randn(1, n, count, dim) for n in (heads, kv_heads, kv_heads))
                )
                function = functools.partial(_library, backend)
                yield Case("attend chunk", size, f"torch {backend.name.lower()}, keys in a run", function, make, **work)

    # ---- whole decode layers of Llama-3.1-8B, so that what lies between kernels counts ----

    def stacks(self) -> Iterator[Case]:
        variants = [("library", False), ("library", True), ("triton", False), ("triton", True)]
        for (tokens, length), (product, dependent) in itertools.product(
            [(1, 1000), (8, 1000), (32, 1000), (64, 1000), (256, 1000)], variants
        ):
            if tokens <= matvec.MOST_TOKENS or product == "library":
                name = f"{product} products{', dependent' * dependent}"
                function = functools.partial(_stack, product, dependent)
                make = functools.partial(self._stack_arguments, tokens, length)
                read = 2.0 * (6144 * 4096 + 4096**2 + 3 * 14336 * 4096) + 4.0 * tokens * length * 8 * 128
                yield Case(f"{LAYERS} layers", f"{tokens} x {length}", name, function, make, bytes_moved=LAYERS * read)

    def _stack_arguments(self, tokens: int, length: int) -> tuple[Any, ...]:
        sizes, device = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)], self._facts.device
        weights = [[self.randn(*size) * size[1] ** -0.5 for size in sizes] for _ in range(LAYERS)]
        attended = functools.partial(arguments, self._facts, [1] * tokens, [length] * tokens)
        states = [attended(heads=32, kv_heads=8, dim=128) for _ in range(LAYERS)]
        positions = torch.full((tokens,), length - 1, device=device)
        slots = [sequences.slot_table[sequences.row, length - 1].long() for _, _, _, sequences, *_ in states]
        table = torch.rand(length, 128, device=device)
        return self.randn(tokens, 4096), self.randn(4096), weights, states, positions, slots, table


def attend_decodes(q, keys, values, all_of: Sequences, scale, window, *, shape=None) -> Tensor:
    """ops.attend by the kernel for sequences of one token."""
    out, where = torch.empty_like(q), (all_of.slot_table, all_of.row, all_of.lengths)
    attention_decode.attend_decodes(q, keys, values, *where, scale, window, out, shape=shape)
    return out


def attend_chunks(q, keys, values, all_of: Sequences, scale, window, *, shape=None) -> Tensor:
    """ops.attend by the kernel that reads keys by their slots."""
    out, where = torch.empty_like(q), (all_of.slot_table, all_of.row, all_of.query_start, all_of.lengths)
    attention_prefill.attend_chunks(q, keys, values, *where, scale, window, all_of.query_lengths, out, shape=shape)
    return out


def attend_runs(q, keys, values, all_of: Sequences, scale, window) -> Tensor:
    """ops.attend by the kernel that copies keys first."""
    assert all_of.context_lengths is not None, "nothing is recorded here"
    out, where = torch.empty_like(q), (all_of.slot_table, all_of.row, all_of.query_start, all_of.lengths)
    counts = all_of.query_lengths, all_of.context_lengths
    attention_prefill_hopper.attend_runs(q, keys, values, *where, scale, window, *counts, out)
    return out


def _library(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def _stack(product: str, dependent: bool, x: Tensor, norm: Tensor, *rest: Any) -> Tensor:
    weights, states, positions, slots, table = rest
    add, store, attend = (_kernel(op) for op in (ops.add_rms_norm, ops.norm_rotate_store, ops.attend))
    linear = ops.linear.reference if product == "library" else _kernel(ops.linear)
    dependent_from = launch.DEPENDENT
    if not dependent:
        launch.DEPENDENT = (99, 0)
    residual = x
    for (qkv, o, gate_up, down), state, slot in zip(weights, states, slots, strict=True):
        _, keys, values, *where = state
        x, residual = add(x, residual, norm, 1e-5)
        q, k, v = linear(x, qkv, None).unflatten(-1, (-1, 128)).split([32, 8, 8], dim=1)
        q = store(q, k, v, None, None, 0.0, positions, table, slot, keys, values)
        x = linear(attend(q, keys, values, *where).flatten(1), o, None)
        x, residual = add(x, residual, norm, 1e-5)
        if product == "library":
            x = _kernel(ops.silu_and_mul)(linear(x, gate_up, None))
        else:
            x = _kernel(ops.gated_linear)(x, gate_up, None)
        x = linear(x, down, None)
    launch.DEPENDENT = dependent_from
    return x


def _kernel(op: Op[..., Any]) -> Callable[..., Any]:
    return next(implementation.function for implementation in op.implementations if implementation.name == "triton")
