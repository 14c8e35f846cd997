"""Every op at serving sizes, by each implementation that can run on a device, and by its reference."""

import functools
import itertools
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightllm.bench.kernels.timing import Case
from lightllm.compute import ops
from lightllm.compute.ops.attention import arguments
from lightllm.compute.ops.op import ALL, Facts, Op


@dataclass(frozen=True)
class Sizes:
    """Of a model and of the steps that run it."""

    hidden: int
    width: int  # of the feed-forward network
    vocab: int
    heads: int
    kv_heads: int
    dim: int
    tokens: tuple[int, ...]
    decodes: tuple[tuple[int, int], ...]  # (sequences, tokens of each)
    prompts: tuple[int, ...]
    rows: tuple[int, ...]  # that are sampled

    @property
    def heads_text(self) -> str:
        return f"{self.heads}/{self.kv_heads} heads of {self.dim}"


# Llama-3.1-8B; on a CPU a model that one would run there, at steps that it can take.
SIZES = {
    "cuda": Sizes(
        4096, 14336, 128_256, 32, 8, 128, (1, 64, 256, 8192),
        ((1, 1000), (8, 1000), (32, 1000), (64, 1024), (128, 1000), (256, 1000), (8, 8192), (8, 30_000), (2, 32768)),
        (512, 2048, 8192, 16384), (1, 64, 256),
    ),
    "cpu": Sizes(
        1024, 3072, 32_000, 16, 8, 64, (1, 16, 256), ((1, 1000), (16, 500)), (128, 512), (1, 16),
    ),
}  # fmt: skip
FEW_TOKENS = (1, 8, 16, 32, 64)


class Cases:
    """For one device and type of numbers."""

    def __init__(self, facts: Facts):
        self._facts, self._sizes = facts, SIZES[facts.device.type]
        self._bytes = facts.dtype.itemsize

    def all(self) -> Iterator[Case]:
        named = [*self.elementwise(), *self.attention(), *self.sampling(), *self.products()]
        yield from named
        yield from self.others({case.op for case in named})

    def by_all(
        self, op: Op[..., Any], size: str, make: Callable[[], tuple[Any, ...]], *, waits: bool = False, **work: Any
    ) -> Iterator[Case]:
        """The case for each implementation that can run here, and for the reference, which may wait."""
        for one in op.implementations:
            if one.why_not(self._facts) is None:
                yield Case(op.name, size, one.name, one.function, make, **work)
        yield Case(op.name, size, "reference", op.reference, make, waits=waits, **work)

    def others(self, named: Set[str]) -> Iterator[Case]:
        """Ops with an implementation and no sizes here: at the last of the sizes that they are tested at."""
        for op in ALL.values():
            if op.name not in named and any(one.why_not(self._facts) is None for one in op.implementations):
                make = functools.partial(self._last_case, op)
                moved = float(sum(part.nbytes for part in make() if isinstance(part, Tensor)))
                yield from self.by_all(op, "as tested", make, waits=True, bytes_moved=moved)

    def _last_case(self, op: Op[..., Any]) -> tuple[Any, ...]:
        return list(op.cases(self._facts))[-1]

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=self._facts.dtype, device=self._facts.device)

    def elementwise(self) -> Iterator[Case]:
        sizes, size = self._sizes, self._bytes
        for tokens in sizes.tokens:
            numbers = tokens * sizes.hidden
            make = functools.partial(self._norm, tokens)
            yield from self.by_all(
                ops.add_rms_norm, f"{tokens} x {sizes.hidden}", make, bytes_moved=4.0 * size * numbers
            )
            make = functools.partial(lambda n: (self.randn(n, 2 * sizes.width),), tokens)
            moved = 3.0 * size * tokens * sizes.width
            yield from self.by_all(ops.silu_and_mul, f"{tokens} x {sizes.width}", make, bytes_moved=moved)
            for normed in (False, True):
                make = functools.partial(self._store, tokens, normed)
                moved = 2.0 * size * tokens * (sizes.heads + 2 * sizes.kv_heads) * sizes.dim
                name = f"{tokens} tokens, {sizes.heads_text}{', normed' * normed}"
                yield from self.by_all(ops.norm_rotate_store, name, make, bytes_moved=moved)
        weight = self.randn(sizes.vocab, sizes.hidden)
        for tokens in sizes.tokens:
            make = functools.partial(
                lambda n: (torch.randint(sizes.vocab, (n,), device=weight.device), weight, 0), tokens
            )
            name = f"{tokens} of {sizes.vocab} x {sizes.hidden}"
            yield from self.by_all(ops.embedding, name, make, bytes_moved=2.0 * size * tokens * sizes.hidden)

    def _norm(self, tokens: int) -> tuple[Any, ...]:
        hidden = self._sizes.hidden
        return self.randn(tokens, hidden), self.randn(tokens, hidden), self.randn(hidden), 1e-5

    def _store(self, tokens: int, normed: bool) -> tuple[Any, ...]:
        heads, kv_heads, dim, device = self._sizes.heads, self._sizes.kv_heads, self._sizes.dim, self._facts.device
        q, k, v = self.randn(tokens, heads + 2 * kv_heads, dim).split([heads, kv_heads, kv_heads], dim=1)
        weights = [self.randn(dim) if normed else None for _ in "qk"]
        positions, slots = torch.arange(tokens, device=device), torch.randperm(2 * tokens, device=device)[:tokens]
        pool = self.randn(2, 2 * tokens, kv_heads, dim)
        return q, k, v, *weights, 1e-6, positions, torch.rand(tokens, dim, device=device), slots, *pool

    def attention(self) -> Iterator[Case]:
        sizes = self._sizes
        heads = {"heads": sizes.heads, "kv_heads": sizes.kv_heads, "dim": sizes.dim}
        for batch, length in sizes.decodes:
            make = functools.partial(arguments, self._facts, [1] * batch, [length] * batch, **heads)
            work = self._attention_work(batch, batch * length)
            yield from self.by_all(ops.attend, f"{batch} x {length}, {sizes.heads_text}", make, waits=True, **work)
        for count in sizes.prompts:
            make = functools.partial(arguments, self._facts, [count], [count], **heads)
            seen = count * (count + 1) // 2
            work = self._attention_work(count, seen, count)
            for case in self.by_all(ops.attend, f"prompt of {count}, {sizes.heads_text}", make, waits=True, **work):
                # The reference holds all scores at once.
                if case.implementation != "reference" or count <= 2048:
                    yield case

    def _attention_work(self, tokens: int, seen: int, context: int | None = None) -> dict[str, Any]:
        """seen: pairs of a token and one that it attends to; context: tokens that are read, if not the pairs'."""
        sizes = self._sizes
        read = 2 * (seen if context is None else context) * sizes.kv_heads + 2 * tokens * sizes.heads
        return {
            "bytes_moved": float(self._bytes * read * sizes.dim),
            "operations": 4.0 * seen * sizes.heads * sizes.dim,
        }

    def products(self) -> Iterator[Case]:
        for (name, op, outputs, inputs), tokens in itertools.product(self.matrices(), FEW_TOKENS):
            make = functools.partial(self._product, op, tokens, outputs, inputs)
            moved = float(self._bytes * (outputs * inputs + tokens * (inputs + outputs)))
            work: dict[str, Any] = {"bytes_moved": moved, "operations": 2.0 * tokens * outputs * inputs}
            yield from self.by_all(op, f"{tokens} tokens, {name} {outputs} x {inputs}", make, **work)

    def matrices(self) -> Iterator[tuple[str, Op[..., Any], int, int]]:
        """Those of a layer and of the head: name, op, rows, columns."""
        sizes = self._sizes
        yield "qkv", ops.linear, (sizes.heads + 2 * sizes.kv_heads) * sizes.dim, sizes.hidden
        yield "o", ops.linear, sizes.hidden, sizes.heads * sizes.dim
        yield "gate_up", ops.linear, 2 * sizes.width, sizes.hidden
        yield "gate_up", ops.gated_linear, 2 * sizes.width, sizes.hidden
        yield "down", ops.linear, sizes.hidden, sizes.width
        yield "head", ops.logits, sizes.vocab, sizes.hidden

    def _product(self, op: Op[..., Any], tokens: int, outputs: int, inputs: int) -> tuple[Any, ...]:
        x, weight = self.randn(tokens, inputs), self.randn(outputs, inputs) * inputs**-0.5
        return (x, weight) if op is ops.logits else (x, weight, None)

    def sampling(self) -> Iterator[Case]:
        vocab = self._sizes.vocab
        kinds = [
            ("greedy", 0.0, vocab, 1.0),
            ("random", 0.6, vocab, 1.0),
            ("top-p", 0.6, vocab, 0.9),
            ("top-k", 1, 50, 1),
        ]
        for rows, (kind, *parameters) in itertools.product(self._sizes.rows, kinds):
            make = functools.partial(self._draw, rows, *parameters)
            moved = float(self._bytes * rows * vocab)
            yield from self.by_all(ops.draw, f"{rows} x {vocab}, {kind}", make, bytes_moved=moved)
        for rows in self._sizes.rows:
            make = functools.partial(self._logprobs, rows)
            moved = float(self._bytes * rows * vocab)
            yield from self.by_all(ops.logprobs, f"{rows} x {vocab}", make, bytes_moved=moved)

    def _logprobs(self, rows: int) -> tuple[Any, ...]:
        return self.randn(rows, self._sizes.vocab) * 3, torch.arange(rows, device=self._facts.device), 0

    def _draw(self, rows: int, temperature: float, top_k: int, top_p: float) -> tuple[Any, ...]:
        device = self._facts.device
        numbers = [torch.full((rows,), float(value), device=device) for value in (temperature, top_p, 0)]
        kept, streams = torch.full((rows,), top_k, device=device), torch.arange(rows, device=device)
        return self.randn(rows, self._sizes.vocab) * 3, numbers[0], kept, numbers[1], numbers[2], streams, streams
