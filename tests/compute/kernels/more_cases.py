"""Arguments for ops that only kernels find awkward: sizes around their tiles, views, shares of a vocabulary."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch

from lightllm.compute.ops import awq, fp8_block, int4, joined, kv_formats, per_channel
from lightllm.compute.ops.attention import IN_RUNS
from lightllm.compute.ops.attention import arguments as attention
from lightllm.compute.ops.attention import latent_arguments as latent_attention
from lightllm.compute.ops.op import Facts

QUANTIZED_SIZES = tuple((tokens, 4096, 14336) for tokens in (1, 17, 64, 1000))
Cases = Callable[[Facts], Iterable[tuple[Any, ...]]]


def _attend(facts: Facts):
    for dim in (64, 80, 96, 128, 192, 256):
        yield attention(facts, [1, 1, 40], [70, 33, 64], heads=8, kv_heads=2, dim=dim)
    yield attention(facts, [1, 1, 2, 1], [129, 1, 130, 1], heads=7, kv_heads=1, dim=64, window=64)
    yield attention(facts, [33], [97], heads=16, kv_heads=1, dim=64, window=32)


def _attend_latent(facts: Facts):
    yield latent_attention(facts, [1, 1, 9], [70, 33, 64], heads=16)
    yield latent_attention(facts, [1, 1, 1], [129, 1, 40], heads=128, rank=64, dim=16, key_dim=16)
    yield latent_attention(facts, [1, 1, 5], [9, 60, 5], heads=20, rank=48, dim=24, value_dim=40)


def _attend_quantized(facts: Facts):
    """Every kind of pool in heads of 64 and 128; other heads, groups and windows in some."""
    sizes = [(heads, dim, kind) for heads in ((8, 2), (2, 2)) for dim in (64, 128) for kind in kv_formats.KINDS]
    for (heads, kv_heads), dim, kind in sizes:
        yield quantized(kind, attention(facts, [1, 1, 40], [70, 33, 64], heads=heads, kv_heads=kv_heads, dim=dim))
    for kind, dim in zip(kv_formats.KINDS, (80, 192, 256), strict=True):
        yield quantized(kind, attention(facts, [1, 1, 40], [70, 33, 64], heads=8, kv_heads=2, dim=dim))
        windowed = {"heads": 8, "kv_heads": 1, "dim": 64, "window": 64}
        yield quantized(kind, attention(facts, [1, 1, 2, 1], [129, 1, 130, 1], **windowed))


def in_runs(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of attend with every context in a run of slots, which is told."""
    *given, sequences, scale, window = arguments
    table = sequences.slot_table
    in_order = torch.arange(table.numel(), dtype=table.dtype, device=table.device).view_as(table)
    return *given, replace(sequences, slot_table=in_order, memo={IN_RUNS: True}), scale, window


def quantized(kind: torch.dtype, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of attend as those of attend_quantized; some tokens are a thousand times others."""
    q, keys, values, *rest = arguments
    sizes = 10 ** torch.empty(len(keys), 1, 1, device=q.device).uniform_(-3, 0)
    made = [part for pool in (keys, values) for part in kv_formats.quantized(pool * sizes, kind)]
    return q, *made, *rest


def quantized_latent(kind: torch.dtype, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same for attend_latent_quantized."""
    *projected, latents, sequences, scale = arguments
    latents = latents * 10 ** torch.empty(len(latents), 1, device=latents.device).uniform_(-3, 0)
    return *projected, *kv_formats.quantized(latents, kind), sequences, scale


def _attend_latent_quantized(facts: Facts):
    for kind in kv_formats.KINDS:
        sizes = {"heads": 80, "rank": 64, "dim": 16, "key_dim": 16}
        yield quantized_latent(kind, latent_attention(facts, [1, 1, 9], [70, 33, 64], heads=16))
        yield quantized_latent(kind, latent_attention(facts, [1, 1, 1], [129, 1, 40], **sizes))


def _norm(facts: Facts):
    wide = torch.randn(5, 3, 300, dtype=facts.dtype, device=facts.device)
    yield wide[..., 20:290], torch.randn(270, dtype=facts.dtype, device=facts.device), 1e-5


def _silu_and_mul(facts: Facts):
    yield (torch.randn(3, 4100, dtype=facts.dtype, device=facts.device)[:, 2:],)


def _linear(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs in [(2, 34, 300), (64, 96, 512), (65, 40, 64)]:
        weight = torch.randn(outputs, inputs + 8, **make)[:, :inputs] * inputs**-0.5
        yield torch.randn(tokens, inputs + 8, **make)[:, 8:], weight, torch.randn(outputs, **make)


def _logits(facts: Facts):
    yield from ((x, weight) for x, weight, _ in _linear(facts))


def _linear_per_channel(
    facts: Facts, sizes: Iterable[tuple[int, int, int]] = ((3, 40, 200), (100, 64, 256)), offset: int = 8
):
    """More tokens than are streamed; sizes that no tile divides; x a view."""
    for tokens, outputs, inputs in sizes:
        x = torch.randn(tokens, inputs + offset, dtype=facts.dtype, device=facts.device)[:, offset:]
        bias = torch.randn(outputs, dtype=facts.dtype, device=facts.device)
        for kind in (torch.float8_e4m3fn, torch.int8):
            for rounds in (True, False):
                yield x, *per_channel.random_matrix(outputs, inputs, kind, facts), bias, rounds


def _linear_fp8_block(facts: Facts, sizes: Iterable[tuple[int, int, int]] = ((3, 40, 256), (70, 200, 128))):
    """Whole tiles along the inputs, which are multiplied as they are."""
    for tokens, outputs, inputs in sizes:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        yield x, *fp8_block.random_matrix(outputs, inputs, facts, start=0), None


def _linear_awq(facts: Facts, sizes: Iterable[tuple[int, int, int]] = ((3, 40, 200), (70, 64, 256))):
    """Groups in order, and inputs scattered over them."""
    for tokens, outputs, inputs in sizes:
        x = torch.randn(tokens, inputs, dtype=facts.dtype, device=facts.device)
        *tensors, group_of = awq.random_matrix(outputs, inputs, facts)
        for groups in (group_of, group_of[torch.randperm(inputs, device=facts.device)]):
            yield x, *tensors, groups, None


def _linear_int4(
    facts: Facts,
    sizes: Iterable[tuple[int, int, int, int]] = (
        (2, 40, 200, 32),
        (3, 128, 1024, 32),
        (9, 128, 512, 256),
        (64, 192, 128, 128),
        (65, 64, 96, 64),
    ),
):
    """Outputs that fill no tile, groups of all kinds, more tokens than are streamed; x a view."""
    for tokens, outputs, inputs, group in sizes:
        x = torch.randn(tokens, inputs + 8, dtype=facts.dtype, device=facts.device)[:, 8:]
        weight, zeros, scales, _ = awq.random_matrix(outputs, inputs, facts)
        groups = -(-inputs // group)
        tiles = int4.tiled(weight, zeros[:groups], scales[:groups], None)
        yield x, *tiles, group, torch.randn(outputs, dtype=facts.dtype, device=facts.device)


def routing(tokens: int, experts: int, top_k: int, facts: Facts, *, uneven: bool = False):
    """choice, share; if uneven, all tokens choose the same experts."""
    likely = torch.randn(1 if uneven else tokens, experts, device=facts.device).expand(tokens, -1)
    return likely.topk(top_k).indices.contiguous(), torch.rand(tokens, top_k, device=facts.device)


def _experts(facts: Facts, sizes: Iterable[tuple[int, ...]] = ((3, 3, 2, 1, 40, 72), (40, 5, 4, 1, 64, 64))):
    """Choices that are all the same, and some that are nobody's here; more rows than a block has."""
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, experts, local, first, hidden, width in sizes:
        for uneven in (False, True):
            gate_up = torch.randn(local, 2 * width, hidden, **make) * hidden**-0.5
            down = torch.randn(local, hidden, width, **make) * width**-0.5
            x = torch.randn(tokens, hidden, **make)
            beside = torch.randn(tokens, 2 * hidden, **make)[:, hidden:] if uneven else None
            yield x, gate_up, down, *routing(tokens, experts, 2, facts, uneven=uneven), first, beside


def _experts_awq(facts: Facts, sizes: Iterable[tuple[int, ...]] = ((20, 5, 3, 1, 64, 64),)):
    """Groups in an order of their own for each expert."""
    for tokens, experts, local, first, hidden, width in sizes:
        shuffled = []
        for outputs, inputs in ((2 * width, hidden), (hidden, width)):
            *tensors, groups = awq.random_matrix(outputs, inputs, facts, experts=local)
            orders = [groups[torch.randperm(inputs, device=facts.device)] for _ in range(local)]
            shuffled += [*tensors, torch.stack(orders)]
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        yield x, *shuffled, *routing(tokens, experts, 2, facts), first


def _experts_per_channel(facts: Facts, sizes: Iterable[tuple[int, ...]]):
    for tokens, experts, local, first, hidden, width in sizes:
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        for kind in (torch.int8, torch.float8_e4m3fn):
            gate_up = per_channel.random_matrix(2 * width, hidden, kind, facts, experts=local)
            down = per_channel.random_matrix(hidden, width, kind, facts, experts=local)
            yield x, *gate_up, *down, *routing(tokens, experts, 2, facts), first, True


def expert_cases_fp8(facts: Facts, sizes: Iterable[tuple[int, ...]] = ((40, 5, 4, 1, 128, 256),)):
    for tokens, experts, local, first, hidden, width in sizes:
        gate_up = fp8_block.random_matrix(2 * width, hidden, facts, experts=local, start=0)
        down = fp8_block.random_matrix(hidden, width, facts, experts=local, start=0)
        x = torch.randn(tokens, hidden, dtype=facts.dtype, device=facts.device)
        yield x, *gate_up, *down, *routing(tokens, experts, 2, facts), first


def _router(facts: Facts, sizes: Iterable[tuple[int, int, int]]):
    for tokens, experts, hidden in sizes:
        weight = torch.randn(experts, hidden, device=facts.device) * hidden**-0.5
        yield torch.randn(tokens, hidden + 8, dtype=facts.dtype, device=facts.device)[:, 8:], weight


CASES: dict[str, Cases] = defaultdict(
    lambda: lambda facts: (),
    {
        "attend": _attend,
        "attend_latent_quantized": _attend_latent_quantized,
        "attend_quantized": _attend_quantized,
        "gated_experts": _experts,
        "attend_latent": _attend_latent,
        "gated_experts_awq": _experts_awq,
        "gated_experts_fp8_block": expert_cases_fp8,
        "gated_linear": _linear,
        "gated_linear_int4": _linear_int4,
        "gated_linear_per_channel": _linear_per_channel,
        "linear": _linear,
        "linear_awq": _linear_awq,
        "linear_fp8_block": _linear_fp8_block,
        "linear_int4": _linear_int4,
        "linear_per_channel": _linear_per_channel,
        "logits": _logits,
        "penalize": lambda facts: _penalties(facts, 70, 40, 8),
        "rms_norm": _norm,
        "router_logits": lambda facts: _router(facts, ((70, 40, 300), (200, 70, 136))),
        "silu_and_mul": _silu_and_mul,
    },
)


def _large_attend(facts: Facts):
    lengths = torch.randint(1, 3000, (256,)).tolist()
    yield attention(facts, [1] * 256, lengths, heads=32, kv_heads=8, dim=128)
    yield attention(facts, [1], [100_003], heads=32, kv_heads=8, dim=128)
    yield attention(facts, [1] * 8, [30_000] * 7 + [5], heads=64, kv_heads=8, dim=128)
    yield attention(facts, [1] * 3, [100_003, 17, 50_000], heads=8, kv_heads=2, dim=80, window=4096)
    yield attention(facts, [1] * 40, [1000] * 40, heads=71, kv_heads=1, dim=64)
    # As long as one another: several programs have a sequence, or one has several.
    for count in (1, 5, 8, 32, 65, 128):
        yield attention(facts, [1] * count, [1100] * count, heads=32, kv_heads=8, dim=128)
    yield attention(facts, [1] * 9, [3000] * 9, heads=8, kv_heads=2, dim=256, window=700)
    yield attention(facts, [100], [100_003], heads=8, kv_heads=2, dim=192)
    for dim in (64, 80, 96, 128, 192, 256):
        yield attention(facts, [1, 1, 700, 3], [5000, 44, 2100, 3], heads=8, kv_heads=2, dim=dim)
        yield attention(facts, [1, 1, 700, 3], [5000, 44, 2100, 3], heads=6, kv_heads=2, dim=dim, window=1000)


def _large_attend_quantized(facts: Facts):
    lengths = torch.randint(1, 3000, (256,)).tolist()
    for kind in kv_formats.KINDS:
        yield quantized(kind, attention(facts, [1] * 256, lengths, heads=32, kv_heads=8, dim=128))
        yield quantized(kind, attention(facts, [1] * 3, [100_003, 17, 5000], heads=8, kv_heads=2, dim=128, window=4096))
        yield quantized(kind, attention(facts, [1] * 9, [3000] * 8 + [5], heads=14, kv_heads=2, dim=64))
        yield quantized(kind, attention(facts, [1, 1, 700, 3], [5000, 44, 2100, 3], heads=8, kv_heads=2, dim=128))
        yield quantized(kind, attention(facts, [300], [100_001], heads=8, kv_heads=2, dim=64))
    yield quantized(torch.float8_e4m3fn, attention(facts, [1], [100_003], heads=32, kv_heads=8, dim=128))


def _large_attend_latent(facts: Facts):
    lengths = torch.randint(1, 3000, (256,)).tolist()
    yield latent_attention(facts, [1] * 256, lengths, heads=16)
    yield latent_attention(facts, [1], [100_003], heads=16)
    yield latent_attention(facts, [1] * 9, [3000] * 8 + [5], heads=128)
    yield latent_attention(facts, [1] * 256, lengths, heads=128)
    yield latent_attention(facts, [1, 1], [100_003, 31], heads=40)
    yield latent_attention(facts, [1, 1, 70, 3], [5000, 44, 2100, 3], heads=16)
    yield latent_attention(facts, [1, 1, 70, 3], [500, 44, 210, 3], heads=128)
    yield latent_attention(facts, [1, 1, 300, 3, 1000, 200], [500, 44, 2100, 3, 1000, 3000], heads=16)


def _large_attend_latent_quantized(facts: Facts):
    lengths = torch.randint(1, 3000, (256,)).tolist()
    for kind in kv_formats.KINDS:
        yield quantized_latent(kind, latent_attention(facts, [1] * 256, lengths, heads=16))
        yield quantized_latent(kind, latent_attention(facts, [1] * 9, [3000] * 8 + [5], heads=128))
        yield quantized_latent(kind, latent_attention(facts, [1, 1, 70, 3], [5000, 44, 2100, 3], heads=16))
        yield quantized_latent(kind, latent_attention(facts, [1], [100_003], heads=16))


def _large_norm(facts: Facts):
    for tokens, width in [(8192, 4096), (1, 16384), (700, 128)]:
        x = torch.randn(tokens, width, dtype=facts.dtype, device=facts.device)
        yield x, torch.randn(width, dtype=facts.dtype, device=facts.device), 1e-5


def _large_sum_norm(facts: Facts):
    for x, weight, eps in _large_norm(facts):
        yield x, torch.randn_like(x), weight, eps


def _large_silu_and_mul(facts: Facts):
    yield (torch.randn(4097, 28672, dtype=facts.dtype, device=facts.device),)


def _large_embedding(facts: Facts):
    weight = torch.randn(32_000, 4096, dtype=facts.dtype, device=facts.device)
    yield torch.randint(0, 128_256, (8193,), device=facts.device), weight, 40_000


def _large_store(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, normed in [(1, False), (4099, True)]:
        q, k, v = torch.randn(tokens, 48, 128, **make).split([32, 8, 8], dim=1)
        weights = [torch.randn(128, **make) if normed else None for _ in "qk"]
        positions = torch.randint(0, 5000, (tokens,), device=facts.device)
        angles = torch.rand(5000, 64, device=facts.device) * 6
        slots = torch.randperm(9000, device=facts.device)[:tokens]
        pool = torch.zeros(2, 9000, 8, 128, **make)
        yield q, k, v, *weights, 1e-6, positions, torch.cat([angles.cos(), angles.sin()], -1), slots, pool[0], pool[1]


def _large_store_quantized(facts: Facts):
    for kind in kv_formats.KINDS:
        for *given, keys, values in _large_store(facts):
            yield *given, *kv_formats.quantized(keys, kind), *kv_formats.quantized(values, kind)


def _large_linear(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for outputs, inputs in [(6144, 4096), (28672, 4096), (4096, 14336), (1024, 3072), (128_256, 1024)]:
        weight = torch.randn(outputs, inputs, **make) * inputs**-0.5
        for tokens in (1, 8, 31, 64):
            yield torch.randn(tokens, inputs, **make), weight, None


def _large_gated_linear(facts: Facts):
    """Many tokens, too, in sizes that no tile divides; x a view."""
    yield from _large_linear(facts)
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs in [
        (256, 28672, 4096),
        (2000, 28672, 4096),
        (3000, 28672, 4096),
        (4100, 6144, 1024),
        (8000, 2000, 1032),
        (16_800, 144, 40),
    ]:
        weight = torch.randn(outputs, inputs, **make) * inputs**-0.5
        yield torch.randn(tokens, inputs + 8, **make)[:, 8:], weight, None


def _large_sum(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, width, inputs in [(513, 4096, 14336), (4100, 1024, 2048)]:
        weight = torch.randn(width, inputs, **make) * inputs**-0.5
        yield torch.randn(tokens, inputs, **make), weight, torch.randn(tokens, width, **make)


def _large_logits(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    weight = torch.randn(128_256, 1024, **make) / 32
    yield from ((torch.randn(tokens, 1024, **make), weight) for tokens in (1, 64, 65, 256))


def _large_add(facts: Facts):
    make = {"dtype": facts.dtype, "device": facts.device}
    for width, inputs in [(4096, 4096), (4096, 14336), (1024, 3072)]:
        weight = torch.randn(width, inputs, **make) * inputs**-0.5
        for tokens in (1, 31, 64, 128):
            residual, norm_weight = torch.randn(tokens, width, **make), torch.randn(width, **make)
            yield torch.randn(tokens, inputs, **make), weight, residual, norm_weight


def _large_gate(facts: Facts):
    for outputs, width in [(28672, 4096), (6144, 1024)]:
        weight = torch.randn(outputs, width, dtype=facts.dtype, device=facts.device) * width**-0.5
        for tokens in (1, 31, 64, 70, 128):
            yield *joined.random_sum(facts, tokens, width), 1e-5, weight, None


def _large_parts(facts: Facts):
    """Shares of the inputs that are unequal and end within a tile, too."""
    make = {"dtype": facts.dtype, "device": facts.device}
    for tokens, outputs, inputs in [(64, 4096, 4096), (81, 4096, 14336), (128, 4096, 14344), (128, 5120, 13824)]:
        yield torch.randn(tokens, inputs, **make), torch.randn(outputs, inputs, **make) * inputs**-0.5


def _large_rotate(facts: Facts):
    for tokens, heads, kv_heads, inputs in itertools.product((1, 31, 64, 128, 2000), (32, 16), (8,), (4096, 1024)):
        yield from joined.rotate_cases(facts, [(tokens, heads, kv_heads, inputs, heads == 16)])


def _large_router_logits(facts: Facts):
    yield from _router(facts, ((tokens, 256, 7168) for tokens in (1, 16, 64, 65, 250, 3000)))
    yield from _router(facts, ((tokens, 128, 2048) for tokens in (40, 256, 4099)))


def _large_routing(facts: Facts):
    yield torch.randn(3, 700, 128, device=facts.device), 8, 1, 1, True, 1.0


def _large_grouped_routing(facts: Facts):
    bias = torch.randn(256, device=facts.device)
    yield torch.randn(28, 700, 256, device=facts.device), bias, 8, 8, 4, True, 2.5


def _large_draw(facts: Facts):
    rows, vocab = 40, 128_256
    logits = (torch.randn(rows, vocab, device=facts.device) * 3).to(facts.dtype)
    cycle = torch.arange(rows, device=facts.device)
    temperature = torch.tensor([0.6, 0.0, 1.0, 1.5], device=facts.device)[cycle % 4]
    top_k = torch.tensor([vocab, 50, 20_000], device=facts.device)[cycle % 3]
    top_p = torch.tensor([1.0, 0.9, 0.3, 1.0, 0.999], device=facts.device)[cycle % 5]
    min_p = torch.tensor([0.0, 0.0, 0.0, 0.02, 0.0, 0.0, 0.3], device=facts.device)[cycle % 7]
    yield logits, temperature, top_k, top_p, min_p, cycle * 12345, cycle + 100


def _large_logprobs(facts: Facts):
    logits = (torch.randn(33, 128_256, device=facts.device) * 3).to(facts.dtype)
    yield logits, torch.randint(0, 128_256, (33,), device=facts.device), 5


def _penalties(facts: Facts, count: int, vocab: int, width: int):
    """More sequences than are counted at once, lengths of all sizes."""
    device = facts.device
    lengths = torch.randint(1, width + 1, (count,), device=device)
    yield (
        torch.randn(count + 1, vocab, device=device),
        torch.randperm(count + 1, device=device)[:count],
        torch.randperm(count, device=device),
        lengths,
        (lengths * torch.rand(count, device=device)).long(),
        *(torch.rand(3, count, device=device) + torch.tensor([[0.7], [-0.5], [-0.5]], device=device)),
        width,
        torch.randperm(count * width, device=device).view(count, width).to(torch.int32),
        torch.randint(0, vocab, (count * width,), dtype=torch.int32, device=device),
    )


def _large_step(facts: Facts):
    """8,192 tokens: decodes, and chunks of which some found a prefix."""
    device, kind = facts.device, torch.int32
    counts = torch.tensor([1] * 200 + [32] * 90 + [5112], device=device)
    starts = torch.randint(0, 500, counts.shape, device=device)
    told = torch.where(torch.arange(len(counts), device=device) % 3 == 0, starts, starts // 2)
    new = starts + counts - told
    rows, width = len(counts) + 5, 6000
    run_starts = (torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(kind) for sizes in (counts, new))
    yield (
        torch.randint(-1, 1000, (int(counts.sum()),), dtype=kind, device=device),
        torch.randperm(rows, device=device)[: len(counts)],
        *run_starts,
        starts.to(kind),
        told.to(kind),
        torch.randperm(int(new.sum()), device=device).to(kind),
        torch.randperm(rows * width, device=device).view(rows, width).to(kind) + int(new.sum()),
        torch.randint(0, 1000, (rows,), device=device),
        torch.zeros(rows * width + int(new.sum()), dtype=kind, device=device),
    )


def _large_allow(facts: Facts):
    device = facts.device
    masks = torch.randint(-(2**31), 2**31 - 1, (300, 4008), dtype=torch.int32, device=device)
    rows = torch.randperm(256, device=device)
    yield torch.randn(256, 128_256, device=device), rows, masks, rows + 20


def _large_typical(facts: Facts):
    device = facts.device
    temperature, typical_p = (torch.rand(40, device=device) * 0.8 + 0.1 for _ in range(2))
    yield (
        torch.randint(-9, 9, (64, 128_256), device=device).float(),
        torch.randperm(64, device=device)[:40],
        temperature,
        typical_p,
    )


LARGE_CASES: dict[str, Cases] = defaultdict(
    lambda: lambda facts: (),
    {
        "add_rms_norm": _large_sum_norm,
        "allow": _large_allow,
        "attend": _large_attend,
        "attend_latent": _large_attend_latent,
        "attend_latent_quantized": _large_attend_latent_quantized,
        "attend_quantized": _large_attend_quantized,
        "draw": _large_draw,
        "embedding": _large_embedding,
        "gated_experts": lambda facts: _experts(facts, ((tokens, 20, 16, 4, 2048, 768) for tokens in (1, 40, 3000))),
        "gated_experts_awq": lambda facts: _experts_awq(
            facts, ((tokens, 20, 16, 4, 2048, 768) for tokens in (1, 40, 300))
        ),
        "gated_experts_per_channel": lambda facts: _experts_per_channel(
            facts, ((tokens, 20, 16, 4, 2048, 768) for tokens in (1, 40, 3000))
        ),
        "gated_experts_fp8_block": lambda facts: expert_cases_fp8(
            facts, ((tokens, 20, 16, 4, 7168, 256) for tokens in (1, 40, 3000))
        ),
        "gated_linear": _large_gated_linear,
        "gated_linear_int4": lambda facts: _linear_int4(facts, ((*one, 128) for one in QUANTIZED_SIZES)),
        "gated_linear_of_weighted": _large_gate,
        "gated_linear_per_channel": lambda facts: _linear_per_channel(facts, QUANTIZED_SIZES, 0),
        "keep_typical": _large_typical,
        "linear": _large_linear,
        "linear_add": _large_sum,
        "linear_add_weigh": _large_add,
        "linear_awq": lambda facts: _linear_awq(facts, QUANTIZED_SIZES),
        "linear_fp8_block": lambda facts: _linear_fp8_block(facts, QUANTIZED_SIZES),
        "linear_in_parts": _large_parts,
        "linear_int4": lambda facts: _linear_int4(facts, ((*one, 128) for one in QUANTIZED_SIZES)),
        "linear_per_channel": lambda facts: _linear_per_channel(facts, QUANTIZED_SIZES, 0),
        "linear_rotate_store": _large_rotate,
        "logits": _large_logits,
        "logprobs": _large_logprobs,
        "norm_rotate_store": _large_store,
        "norm_rotate_store_quantized": _large_store_quantized,
        "penalize": lambda facts: _penalties(facts, 150, 128_256, 5000),
        "prepare_step": _large_step,
        "rms_norm": _large_norm,
        "route_sigmoid": _large_grouped_routing,
        "route_softmax": _large_routing,
        "router_logits": _large_router_logits,
        "silu_and_mul": _large_silu_and_mul,
    },
)
