"""What the compiler makes of the kernels for an H200. Run by test_without_gpu.py, in a process of its own.

As a program, `python -m tests.compute.kernels.compiled` prints the first table of docs/kernels.md.
"""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.compute.kernels import hopper  # isort: skip  (changes Triton, so before any kernel)
from lightllm.compute.kernels.triton import (
    activation,
    attention_decode,
    attention_decode_hopper,
    attention_decode_quantized,
    attention_latent,
    attention_prefill,
    attention_prefill_hopper,
    attention_quantized,
    awq,
    biases,
    embedding,
    experts,
    fp8_block,
    masks,
    matmul_gated_hopper,
    matmul_hopper,
    matmul_streamed,
    matvec,
    matvec_hopper,
    matvec_int4,
    matvec_joined,
    matvec_w8a16,
    norm,
    penalties,
    per_channel,
    quantize,
    rope,
    rope_quantized,
    routing,
    sampling,
    step,
    typical,
)

TOKENS = 64
WHERE = torch.zeros(TOKENS, dtype=torch.int64)
LENGTHS = torch.zeros(TOKENS, dtype=torch.int32)
TABLE = torch.zeros(TOKENS, 1024, dtype=torch.int32)
EARLY = attention_decode_quantized


def half(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def heads(count: int, kv_heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and a pool."""
    return half(TOKENS, count, dim), *half(2, 1000, kv_heads, dim)


def store(*, normed: bool) -> None:
    q, k, v = half(TOKENS, 48, 128).split([32, 8, 8], dim=1)
    weight = half(128) if normed else None
    pool = half(2, 1000, 8, 128)
    rope.norm_rotate_store(q, k, v, weight, weight, 1e-6, WHERE, torch.zeros(100, 128), WHERE, *pool)


def decode(count: int, kv_heads: int, dim: int, window: int | None = None) -> None:
    q, keys, values = heads(count, kv_heads, dim)
    attention_decode.attend_decodes(q, keys, values, TABLE, WHERE, LENGTHS, 1.0, window, q)


def early_decode(count: int, kv_heads: int, dim: int, window: int | None = None) -> None:
    q, keys, values = heads(count, kv_heads, dim)
    attention_decode_hopper.attend_decodes(q, keys, values, TABLE, WHERE, LENGTHS, 1.0, window, q)


def pool(kind: torch.dtype, kv_heads: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys or values of fewer bits, and their scales."""
    width = dim // 2 if kind == torch.uint8 else dim
    return torch.zeros(1000, kv_heads, width, dtype=kind), torch.zeros(1000, kv_heads)


def quantized_store(kind: torch.dtype) -> None:
    q, k, v = half(TOKENS, 48, 128).split([32, 8, 8], dim=1)
    pools = *pool(kind, 8, 128), *pool(kind, 8, 128)
    angles, weight = torch.zeros(100, 128), half(128)
    rope_quantized.norm_rotate_store_quantized(q, k, v, weight, weight, 1e-6, WHERE, angles, WHERE, *pools)


def quantized_decode(module: types.ModuleType, kind: torch.dtype, count: int, kv_heads: int, dim: int) -> None:
    keys, scale = pool(kind, kv_heads, dim)
    q, scales = half(TOKENS, count, dim), (scale, scale)
    module.attend_decodes(q, keys, keys, TABLE, WHERE, LENGTHS, 1.0, None, q, scales=scales)


def quantized_prefill(kind: torch.dtype) -> None:
    keys, scale = pool(kind, 8, 128)
    q, where = half(TOKENS, 32, 128), (TABLE, WHERE, LENGTHS, LENGTHS)
    attention_prefill.attend_chunks(q, keys, keys, *where, 1.0, None, [TOKENS], q, scales=(scale, scale))


def dequantized_run(kind: torch.dtype) -> None:
    numbers = pool(kind, 8, 128)
    attention_quantized.run_of(*numbers, 128 // numbers[0].shape[2], TABLE, WHERE, LENGTHS, [TOKENS], torch.bfloat16)


def latent_decode(count: int) -> None:
    q, latents = half(TOKENS, count, 576), half(1000, 576)
    attention_latent.attend_decodes(q, latents, 512, TABLE, WHERE, LENGTHS, 1.0, half(TOKENS, count, 512))


def quantized_latent_decode(kind: torch.dtype, count: int) -> None:
    latents, scale = pool(kind, 1, 576)
    q, out, where = half(TOKENS, count, 576), half(TOKENS, count, 512), (TABLE, WHERE, LENGTHS)
    attention_latent.attend_decodes(q, latents[:, 0], 512, *where, 1.0, out, latent_scale=scale[:, 0])


def quantized_latent_store(kind: torch.dtype) -> None:
    latents, scale = pool(kind, 1, 576)
    given = half(TOKENS, 16, 64), half(TOKENS, 576), half(512), 1e-6, WHERE, torch.zeros(100, 64), WHERE
    rope_quantized.norm_rotate_store_latent_quantized(*given, latents[:, 0], scale[:, 0])


def latent_prefill(count: int) -> None:
    q, latents = half(TOKENS, count, 576), half(1000, 1, 576)
    out = half(TOKENS, count, 512)
    where = (TABLE, WHERE, LENGTHS, LENGTHS)
    attention_prefill.attend_chunks(q, latents, latents[..., :512], *where, 1.0, None, [TOKENS], out)


def latent_runs() -> None:
    q, run, out = half(TOKENS, 16, 192), half(TOKENS, 576), half(TOKENS, 16, 128)
    keys, others = half(TOKENS, 16 * 128), (q[..., 128:], run[:, 512:])
    where = (LENGTHS, LENGTHS)
    attention_prefill_hopper.attend_runs_of(q[..., :128], keys, keys, *where, 1.0, None, [TOKENS], out, others=others)


def latent_store() -> None:
    q, compressed, latents = half(TOKENS, 16, 64), half(TOKENS, 576), half(1000, 576)
    rope.norm_rotate_store_latent(q, compressed, half(512), 1e-6, WHERE, torch.zeros(100, 64), WHERE, latents)


def prefill(count: int, kv_heads: int, dim: int, window: int | None = None) -> None:
    q, keys, values = heads(count, kv_heads, dim)
    attention_prefill.attend_chunks(q, keys, values, TABLE, WHERE, LENGTHS, LENGTHS, 1.0, window, [TOKENS], q)


def runs(count: int, kv_heads: int, dim: int, window: int | None = None) -> None:
    q, keys, values = heads(count, kv_heads, dim)
    attention_prefill_hopper.attend_runs(
        q, keys, values, TABLE, WHERE, LENGTHS, LENGTHS, 1.0, window, [TOKENS], [TOKENS], q
    )


def runs_of_the_pool(count: int, kv_heads: int, dim: int) -> None:
    q, *pool = heads(count, kv_heads, dim)
    pool = (numbers.flatten(1) for numbers in pool)
    attention_prefill_hopper.attend_runs_of(q, *pool, LENGTHS, LENGTHS, 1.0, None, [TOKENS], q, firsts=LENGTHS)


def multiply(module: types.ModuleType, tokens: int, *, gated: bool = False) -> None:
    weight = half(28672, 4096)
    shape = module.shape_for(max(tokens, 16), *weight.shape, gated=gated)
    module.multiply(half(tokens, 4096), weight, None, shape, gated=gated)


def add_weigh(tokens: int) -> None:
    matvec_joined.linear_add_weigh(half(tokens, 4096), half(4096, 4096), half(tokens, 4096), half(4096))


def gate_weighted(tokens: int, rows: int = 28672) -> None:
    squares = torch.zeros(32, tokens)
    matvec_joined.gated_linear_of_weighted(half(tokens, 4096), squares, 1e-6, half(rows, 4096), None)


def rotate_weighted(tokens: int, *, normed: bool = False) -> None:
    norm_weight, where = half(128) if normed else None, torch.zeros(tokens, dtype=torch.int64)
    how = (norm_weight, norm_weight, 1e-6, where, torch.zeros(100, 128), where, *half(2, 1000, 8, 128))
    matvec_joined.linear_rotate_store(half(tokens, 4096), torch.zeros(32, tokens), 1e-6, half(6144, 4096), None, *how)


def multiply_rotated(*, normed: bool) -> None:
    norm_weight, where = half(128) if normed else None, torch.zeros(2048, dtype=torch.int64)
    how = (norm_weight, norm_weight, 1e-6, where, torch.zeros(100, 128), where, *half(2, 1000, 8, 128))
    matmul_hopper.multiply_rotated(half(2048, 4096), half(6144, 4096), None, *how)


def gate_and_round(kind: torch.dtype, tokens: int) -> None:
    """A gated product that rounds what it makes, and the product that reads it."""
    numbers, x_scale = quantize.quantize_tokens(half(tokens, 4096), kind)
    matrices = [(half(*size).to(kind), torch.ones(size[0])) for size in ((28672, 4096), (4096, 14336))]
    numbers, x_scale = per_channel.gated_linear_rounded(numbers, x_scale, *matrices[0], None, torch.bfloat16)
    per_channel.linear_of_rounded(numbers, x_scale, *matrices[1], None, torch.bfloat16)


def multiply_8_bits(kind: torch.dtype, tokens: int, *, gated: bool = False) -> None:
    weight, ones = half(28672, 4096).to(kind), torch.ones(28672)
    x, x_scale = quantize.quantize_tokens(half(tokens, 4096), kind)
    if tokens > TOKENS:
        per_channel.multiply(x, x_scale, weight, ones, None, torch.bfloat16)
    else:
        shape = matvec_hopper.shape_of_8_bits(max(tokens, 16), *weight.shape, gated=gated)
        scales = (x_scale, ones)
        matvec_hopper.multiply(x, weight, None, shape, gated=gated, scales=scales, dtype=torch.bfloat16)


def multiply_by_weights_of_8_bits(kind: torch.dtype, tokens: int, *, gated: bool = False) -> None:
    weight, ones = half(28672, 4096).to(kind), torch.ones(28672)
    shape = matvec_w8a16.shape_for(max(tokens, 16), *weight.shape, gated=gated)
    matvec_w8a16.multiply(half(tokens, 4096), weight, ones, None, shape, gated=gated)


def prepare() -> None:
    starts = torch.zeros(TOKENS + 1, dtype=torch.int32)
    step.prepare_step(LENGTHS, WHERE, starts, starts, LENGTHS, LENGTHS, LENGTHS, TABLE, WHERE, LENGTHS)


def penalize() -> None:
    numbers = torch.ones(TOKENS)
    how = (numbers, numbers, numbers, 1024)
    penalties.penalize(torch.zeros(TOKENS, 128256), WHERE, WHERE, WHERE, WHERE, *how, TABLE, LENGTHS)


def add_biases() -> None:
    where, words = (WHERE,) * 5, torch.zeros(TOKENS * 4, dtype=torch.int64)
    biases.add_biases(torch.zeros(TOKENS, 128256), *where, 300, 3, words, TABLE, LENGTHS)


def allow() -> None:
    masks.allow(torch.zeros(TOKENS, 128256), WHERE, torch.zeros(TOKENS, 4008, dtype=torch.int32), WHERE)


def keep_typical() -> None:
    typical.keep_typical(torch.zeros(TOKENS, 128256), WHERE, torch.ones(TOKENS), torch.ones(TOKENS))


def mixture(tokens: int, count: int, hidden: int, width: int) -> None:
    """Of `count` experts, of which a token chooses 8."""
    sizes = ((2 * width, hidden), (hidden, width))
    matrices = (experts.Matrices("plain", half(count, *size), *size) for size in sizes)
    experts.mixture(half(tokens, hidden), *matrices, *choices(tokens), 0)


def mixture_fp8(tokens: int, count: int, hidden: int, width: int) -> None:
    made = []
    for outputs, inputs in ((2 * width, hidden), (hidden, width)):
        weight = torch.zeros(count, outputs, inputs, dtype=torch.float8_e4m3fn)
        scales = torch.zeros(count, outputs // 128, inputs // 128), WHERE, WHERE
        made.append(experts.Matrices("scaled", weight, outputs, inputs, scales))
    experts.mixture(half(tokens, hidden), *made, *choices(tokens), 0)


def mixture_of_integers(tokens: int) -> None:
    def matrix(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(16, outputs, inputs, dtype=torch.int8), torch.zeros(16, outputs)

    matrices = *matrix(1536, 2048), *matrix(2048, 768)
    experts.gated_experts_per_channel(half(tokens, 2048), *matrices, *choices(tokens), 0, True)


def mixture_awq() -> None:
    def packed(outputs: int, inputs: int) -> tuple[torch.Tensor, ...]:
        weight, zeros = (torch.zeros(16, size, outputs // 8, dtype=torch.int32) for size in (inputs, inputs // 128))
        return weight, zeros, torch.zeros(16, inputs // 128, outputs), WHERE

    experts.gated_experts_awq(half(8, 2048), *packed(1536, 2048), *packed(2048, 768), *choices(8), 0)


def choices(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(tokens, 8, dtype=torch.int64), torch.zeros(tokens, 8)


def product_of_tiles(tokens: int, *, cut: bool = False) -> None:
    weight, scale = torch.zeros(4096, 14336, dtype=torch.float8_e4m3fn), torch.zeros(32, 113 if cut else 112)
    fp8_block.linear_fp8_block(half(tokens, 14336), weight, scale, WHERE, WHERE, None)


def product_of_4_bits(tokens: int) -> None:
    weight, zeros = (torch.zeros(size, 512, dtype=torch.int32) for size in (14336, 112))
    awq.linear_awq(half(tokens, 14336), weight, zeros, torch.zeros(112, 4096), WHERE, None)


def product_of_tiled_4_bits(tokens: int, *, gated: bool = False, group: int = 128) -> None:
    words, steps = (torch.zeros(*size, dtype=torch.int32) for size in ((448, 32, 32, 32), (4096 // group, 28672)))
    shape = matvec_int4.shape_for(max(tokens, 8), 28672, 4096, gated=gated)
    matvec_int4.multiply(half(tokens, 4096), words, steps, group, None, shape, gated=gated)


def draw() -> None:
    numbers = torch.ones(TOKENS)
    sampling.draw(half(TOKENS, 128256), numbers, WHERE, numbers, numbers, WHERE, WHERE)


# What is launched, by the name it has in the table. Sizes are Llama-3.1-8B's unless the name says otherwise.
LAUNCHES: dict[str, Callable[[], Any]] = {
    "add and norm": lambda: norm.add_rms_norm(half(TOKENS, 4096), half(TOKENS, 4096), half(4096), 1e-6),
    "add, norm and round": lambda: norm.add_rms_norm_rounded(
        half(TOKENS, 4096), half(TOKENS, 4096), half(4096), 1e-6, torch.float8_e4m3fn
    ),
    "add parts, norm and round": lambda: norm.add_rms_norm_of_parts_rounded(
        torch.zeros(2, TOKENS, 4096), half(TOKENS, 4096), half(4096), 1e-6, torch.int8
    ),
    "silu and mul": lambda: activation.silu_and_mul(half(TOKENS, 28672)),
    "embedding": lambda: embedding.embedding(WHERE, half(1000, 4096), 0),
    "rotate and store": lambda: store(normed=False),
    "norm, rotate and store": lambda: store(normed=True),
    "decode, 32/8 heads of 128": lambda: decode(32, 8, 128),
    "decode, 64/8 heads of 128": lambda: decode(64, 8, 128),
    "decode, 32/8 heads of 64": lambda: decode(32, 8, 64),
    "decode, 16/2 heads of 256, window": lambda: decode(16, 2, 256, 512),
    "early decode, 32/8 heads of 128": lambda: early_decode(32, 8, 128),
    "early decode, 16/8 heads of 128, window": lambda: early_decode(16, 8, 128, 512),
    "early decode, 64/8 heads of 64": lambda: early_decode(64, 8, 64),
    "early decode, 16/2 heads of 256": lambda: early_decode(16, 2, 256),
    "norm, rotate and store in int8": lambda: quantized_store(torch.int8),
    "norm, rotate and store in int4": lambda: quantized_store(torch.uint8),
    "fp8 decode, 32/8 heads of 128": lambda: quantized_decode(EARLY, torch.float8_e4m3fn, 32, 8, 128),
    "int8 decode, 64/8 heads of 128": lambda: quantized_decode(EARLY, torch.int8, 64, 8, 128),
    "int4 decode, 32/8 heads of 128": lambda: quantized_decode(EARLY, torch.uint8, 32, 8, 128),
    "fp8 decode, 14/2 heads of 64": lambda: quantized_decode(EARLY, torch.float8_e4m3fn, 14, 2, 64),
    "int4 decode, 8/8 heads of 64": lambda: quantized_decode(EARLY, torch.uint8, 8, 8, 64),
    "int8 decode by slots, 16/2 heads of 256": lambda: quantized_decode(attention_decode, torch.int8, 16, 2, 256),
    "fp8 prefill by slots, 32/8 heads of 128": lambda: quantized_prefill(torch.float8_e4m3fn),
    "int4 prefill by slots, 32/8 heads of 128": lambda: quantized_prefill(torch.uint8),
    "dequantize a run of fp8": lambda: dequantized_run(torch.float8_e4m3fn),
    "dequantize a run of int4": lambda: dequantized_run(torch.uint8),
    "norm, rotate and store latents": latent_store,
    "latent decode, 16 heads": lambda: latent_decode(16),
    "latent decode, 128 heads": lambda: latent_decode(128),
    "norm, rotate and store latents in fp8": lambda: quantized_latent_store(torch.float8_e4m3fn),
    "fp8 latent decode, 16 heads": lambda: quantized_latent_decode(torch.float8_e4m3fn, 16),
    "fp8 latent decode, 128 heads": lambda: quantized_latent_decode(torch.float8_e4m3fn, 128),
    "int4 latent decode, 16 heads": lambda: quantized_latent_decode(torch.uint8, 16),
    "long latent prefill": latent_runs,
    "latent prefill, 16 heads": lambda: latent_prefill(16),
    "latent prefill, 128 heads": lambda: latent_prefill(128),
    "prefill, 32/8 heads of 128": lambda: prefill(32, 8, 128),
    "prefill, 16/2 heads of 192": lambda: prefill(16, 2, 192),
    "prefill, 16/2 heads of 256": lambda: prefill(16, 2, 256),
    "long prefill, 32/8 heads of 64": lambda: runs(32, 8, 64),
    "long prefill, 32/8 heads of 128": lambda: runs(32, 8, 128),
    "long prefill, 32/8 heads of 128, window": lambda: runs(32, 8, 128, 4096),
    "long prefill, 16/2 heads of 192": lambda: runs(16, 2, 192),
    "long prefill, 16/2 heads of 256": lambda: runs(16, 2, 256),
    "long prefill of the pool, 32/8 heads of 128": lambda: runs_of_the_pool(32, 8, 128),
    "prepare a step": prepare,
    "penalize": penalize,
    "add biases": add_biases,
    "allow": allow,
    "keep typical": keep_typical,
    "linear, 1 token": lambda: multiply(matvec, 1),
    "linear, 64 tokens": lambda: multiply(matvec, 64),
    "gated linear, 64 tokens": lambda: multiply(matvec, 64, gated=True),
    "streamed linear, 1 token": lambda: multiply(matvec_hopper, 1),
    "streamed linear, 64 tokens": lambda: multiply(matvec_hopper, 64),
    "streamed gated linear, 64 tokens": lambda: multiply(matvec_hopper, 64, gated=True),
    "streamed gated linear, 2048 tokens": lambda: matmul_hopper.multiply_gated(half(2048, 4096), half(28672, 4096)),
    "streamed gated linear by three, 2048 tokens": lambda: matmul_gated_hopper.multiply_gated(
        half(2048, 4096), half(28672, 4096)
    ),
    "streamed linear, rotated and stored, 2048 tokens": lambda: multiply_rotated(normed=False),
    "streamed linear, normed, rotated and stored, 2048 tokens": lambda: multiply_rotated(normed=True),
    "streamed linear, added and weighted, 1 token": lambda: add_weigh(1),
    "streamed linear, added and weighted, 64 tokens": lambda: add_weigh(64),
    "streamed linear, added and weighted, 128 tokens": lambda: add_weigh(128),
    "streamed gated linear of weighted, 1 token": lambda: gate_weighted(1),
    "streamed gated linear of weighted, 64 tokens": lambda: gate_weighted(64),
    "streamed gated linear of weighted, 128 tokens": lambda: gate_weighted(128),
    "streamed gated linear of weighted, 128 tokens, 24576 rows": lambda: gate_weighted(128, 24576),
    "streamed linear in parts, 128 tokens": lambda: matmul_streamed.multiply_in_parts(
        half(128, 14336), half(4096, 14336)
    ),
    "streamed linear, rotated and stored, 1 token": lambda: rotate_weighted(1, normed=True),
    "streamed linear, rotated and stored, 64 tokens": lambda: rotate_weighted(64),
    "streamed linear, rotated and stored, 128 tokens": lambda: rotate_weighted(128),
    "route, 256 experts in 8 groups": lambda: routing.route_sigmoid(
        torch.zeros(28, TOKENS, 256), torch.zeros(256), 8, 8, 4, True, 2.5
    ),
    "router, 256 experts": lambda: routing.router_logits(half(TOKENS, 7168), torch.zeros(256, 7168)),
    "router, 256 experts, 256 tokens": lambda: routing.router_logits(half(256, 7168), torch.zeros(256, 7168)),
    "awq experts of 2048 x 768": mixture_awq,
    "experts of 2048 x 768 in integers, 8 tokens": lambda: mixture_of_integers(8),
    "experts of 2048 x 768 in integers, 3000 tokens": lambda: mixture_of_integers(3000),
    "experts of 2048 x 768, 8 tokens": lambda: mixture(8, 16, 2048, 768),
    "experts of 7168 x 256 in 8 bits, 256 tokens": lambda: mixture_fp8(256, 16, 7168, 256),
    "fp8 streamed linear, 1 token": lambda: multiply_8_bits(torch.float8_e4m3fn, 1),
    "fp8 streamed gated linear, 64 tokens": lambda: multiply_8_bits(torch.float8_e4m3fn, 64, gated=True),
    "int8 streamed gated linear, 64 tokens": lambda: multiply_8_bits(torch.int8, 64, gated=True),
    "int8 streamed linear in parts, 64 tokens": lambda: per_channel.linear_per_channel_in_parts(
        half(64, 4096), torch.zeros(4096, 4096, dtype=torch.int8), torch.ones(4096)
    ),
    "fp8 streamed gated linear, rounded, and its reader, 64 tokens": lambda: gate_and_round(torch.float8_e4m3fn, 64),
    "int8 streamed gated linear, rounded, and its reader, 1 token": lambda: gate_and_round(torch.int8, 1),
    "int8 linear, 2048 tokens": lambda: multiply_8_bits(torch.int8, 2048),
    "fp8 tiles, 64 tokens": lambda: product_of_tiles(64),
    "cut fp8 tiles, 64 tokens": lambda: product_of_tiles(64, cut=True),
    "int4 linear, 1 token": lambda: product_of_4_bits(1),
    "int4 linear, 64 tokens": lambda: product_of_4_bits(64),
    "streamed int8 weights, 1 token": lambda: multiply_by_weights_of_8_bits(torch.int8, 1),
    "streamed fp8 weights, 64 tokens": lambda: multiply_by_weights_of_8_bits(torch.float8_e4m3fn, 64),
    "streamed int8 weights, gated, 128 tokens": lambda: multiply_by_weights_of_8_bits(torch.int8, 128, gated=True),
    "dequantize int8 weights": lambda: matvec_w8a16.dequantized(
        torch.zeros(4096, 14336, dtype=torch.int8), torch.ones(4096), torch.bfloat16
    ),
    "streamed int4 linear, 1 token": lambda: product_of_tiled_4_bits(1),
    "streamed int4 gated linear, 1 token": lambda: product_of_tiled_4_bits(1, gated=True),
    "streamed int4 gated linear in groups of 32, 1 token": lambda: product_of_tiled_4_bits(1, gated=True, group=32),
    "streamed int4 gated linear, 64 tokens": lambda: product_of_tiled_4_bits(64, gated=True),
    "draw": draw,
    "logprobs": lambda: sampling.logprobs(half(TOKENS, 128256), WHERE, 5),
}
SHARED = 227 << 10  # bytes that a program may have
STACK = {  # bytes a thread may have in memory
    "prefill, 16/2 heads of 256": 72,
    "fp8 prefill by slots, 32/8 heads of 128": 16,
    "fp8 latent decode, 128 heads": 48,
    "latent prefill, 16 heads": 88,
    "latent prefill, 128 heads": 88,
    "long latent prefill": 24,
    "long prefill, 32/8 heads of 128": 24,
    "long prefill of the pool, 32/8 heads of 128": 24,
    "long prefill, 32/8 heads of 128, window": 88,
    "draw": 64,
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_compiles_for_hopper_without_spilling(name):
    compiled = hopper.compiled_by(LAUNCHES[name])
    assert max(kernel.stack_bytes for kernel in compiled) <= STACK.get(name, 0)
    assert max(kernel.shared_bytes for kernel in compiled) <= SHARED
    if "prefill" in name or name.startswith("early"):
        assert compiled[-1].wgmma, "the matrix unit's own instructions are used"
    if name.startswith("experts"):
        products = [kernel for kernel in compiled if kernel.kernel.startswith("_multiply")]
        assert [bool(kernel.wgmma and kernel.async_copies) for kernel in products] == [True, True]
    if name == "latent decode, 128 heads":
        assert compiled[0].wgmma, "the matrix unit's own instructions are used"
        assert compiled[0].async_copies, "copies run beside products"
    if name.endswith("2048 tokens"):
        assert compiled[-1].wgmma, "the matrix unit's own instructions are used"
    if name.startswith(("long", "streamed")):
        assert compiled[-1].bulk_copies, "tiles are fetched by the copy engine"
    if name.startswith(("decode", "early", "fp8 decode", "int8 decode", "int4 decode", "linear", "gated")):
        assert compiled[-1].async_copies, "copies run ahead of what uses them"


if __name__ == "__main__":
    rows = {name: hopper.compiled_by(launch) for name, launch in LAUNCHES.items()}
    print(hopper.table([(name, kernel) for name, kernels in rows.items() for kernel in kernels]))
