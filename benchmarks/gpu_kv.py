"""Keys and values of fewer bits on one GPU: attention alone, and whole decode steps.

    python -m benchmarks.gpu_kv [decodes] [latents] [chunks] [steps] [--kinds bf16 fp8 int8 int4] [--all]

Attention is that of Llama-3.1-8B's heads, 32 and 8 of 128 numbers, timed by replays of CUDA graphs, with every kernel
compiled first; the share is that of reading what the pool holds of the contexts at 4.34 TB/s. With --all, decodes are
timed with other launch parameters, too. Steps are the runner's alone, with random weights, on 30,000 tokens.
"""

import argparse
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu, on_gpu
from benchmarks.gpu_shapes import SHAPES
from lightllm.base.config import EngineConfig, parse
from lightllm.bench.kernels.timing import seconds_of
from lightllm.compute.execution.runner import Runner
from lightllm.compute.kernels.triton import (
    attention,
    attention_decode_hopper,
    attention_decode_quantized,
    attention_latent_decode,
)
from lightllm.compute.kernels.triton.attention_quantized import attend_quantized
from lightllm.compute.kernels.triton.compiling import compiled_beside
from lightllm.compute.ops.attention import Sequences
from lightllm.compute.ops.kv_formats import quantized
from lightllm.compute.ops.op import Facts

READ = 4.34e12
HEADS, KV_HEADS, DIM = 32, 8, 128
KINDS = {"bf16": None, "fp8": torch.float8_e4m3fn, "int8": torch.int8, "int4": torch.uint8}
DECODES = [(8, 30_000), (64, 1024), (256, 1000), (1, 1000), (2, 32_768), (1, 100_000)]
LATENTS = [(16, 64, 8192), (16, 256, 1024), (128, 64, 8192)]  # heads, sequences, context
CHUNKS = [(8192, 8192), (8192, 32_768), (64, 8192), (16, 8192)]
ATTENTION = ("decodes", "latents", "chunks")
BATCH, CONTEXT = 8, 30_000
ROWS = 64  # may run at once, so that not these but the memory bounds the pool


def arguments(facts: Facts, queries: list[int], lengths: list[int], kind: torch.dtype | None) -> tuple[Any, ...]:
    """Of attend or attend_quantized. Made in place: the pool may be large."""
    make = {"dtype": facts.dtype, "device": facts.device}
    count, width = len(lengths), max(lengths)
    decodes = count if max(queries) == 1 else 0
    sequences = Sequences(
        slot_table=torch.randperm(count * width, device=facts.device).view(count, width).to(torch.int32),
        row=torch.arange(count, device=facts.device),
        query_start=torch.tensor([0, *queries], device=facts.device).cumsum(0).to(torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=facts.device),
        decodes=decodes,
        query_lengths=queries[decodes:],
        context_lengths=lengths[decodes:],
    )
    q = torch.randn(sum(queries), HEADS, DIM, **make)
    pools = (torch.randn(count * width, KV_HEADS, DIM, **make) for _ in range(2))
    if kind is not None:
        pools = (part for pool in pools for part in quantized(pool, kind))
    return q, *pools, sequences, DIM**-0.5, None


def shapes(kind: torch.dtype | None, *, every: bool) -> list[Any]:
    """Launch parameters of decodes."""
    if kind is None:
        return [attention_decode_hopper.shape_for(DIM)]
    width = DIM // 2 if kind == torch.uint8 else DIM  # bytes
    tried = [(64, 3, 2), (64, 4, 3), (128, 3, 2)] if width == DIM else [(64, 4, 2), (64, 4, 3), (64, 4, 4)]
    made = [attention_decode_quantized.Shape(*one) for one in tried]
    default = attention_decode_quantized.shape_for(DIM)
    return [default, *(one for one in made if every and one != default)]


def decode(shape: Any, *made: Any) -> Tensor:
    """The decode kernel by itself."""
    q, *pools, sequences, scale, window = made
    out, where = torch.empty_like(q), (sequences.slot_table, sequences.row, sequences.lengths, scale, window)
    if isinstance(shape, attention_decode_quantized.Shape):
        keys, key_scale, values, value_scale = pools
        scales = key_scale, value_scale
        attention_decode_quantized.attend_decodes(q, keys, values, *where, out, scales=scales, shape=shape)
    else:
        attention_decode_hopper.attend_decodes(q, *pools, *where, out, shape=shape)
    return out


def latent_arguments(facts: Facts, heads: int, batch: int, length: int, kind: torch.dtype | None) -> tuple[Any, ...]:
    """Of the decode kernel of latents."""
    make = {"dtype": facts.dtype, "device": facts.device}
    q, latents = torch.randn(batch, heads, 576, **make), torch.randn(batch * length, 576, **make)
    table = torch.randperm(batch * length, device=facts.device).view(batch, length).to(torch.int32)
    lengths = torch.full((batch,), length, dtype=torch.int32, device=facts.device)
    pool = (latents, None) if kind is None else quantized(latents, kind)
    return q, *pool, table, torch.arange(batch, device=facts.device), lengths


def latent_decode(
    shape: Any, q: Tensor, latents: Tensor, latent_scale: Tensor | None, table: Tensor, row: Tensor, lengths: Tensor
) -> Tensor:
    out = torch.empty(*q.shape[:2], 512, dtype=q.dtype, device=q.device)
    where = (table, row, lengths, 192**-0.5)
    attention_latent_decode.attend_decodes(q, latents, 512, *where, out, latent_scale=latent_scale, shape=shape)
    return out


def attend(kind: torch.dtype | None) -> Callable[..., Tensor]:
    return attention.attend if kind is None else attend_quantized


def cases(
    facts: Facts, kinds: list[str], *, decodes: bool, latents: bool, chunks: bool, every: bool
) -> Iterator[tuple[str, float, Callable[..., Tensor], Callable[[], tuple[Any, ...]]]]:
    """Name, bytes that the pool holds of the contexts, function, and what makes its arguments."""
    for name in kinds:
        kind = KINDS[name]
        bytes_of_token = KV_HEADS * 2 * (DIM * 2 if kind is None else DIM // (2 if kind == torch.uint8 else 1) + 4)
        for batch, length in DECODES if decodes else ():
            make = functools.partial(arguments, facts, [1] * batch, [length] * batch, kind)
            for shape in shapes(kind, every=every):
                run = functools.partial(decode, shape)
                yield f"{name} decode {batch} x {length}, {shape}", batch * length * bytes_of_token, run, make
        for heads, batch, length in LATENTS if latents else ():
            read = batch * length * (576 * 2 if kind is None else 576 // (2 if kind == torch.uint8 else 1) + 4)
            make = functools.partial(latent_arguments, facts, heads, batch, length, kind)
            default = attention_latent_decode.shape_for(
                min(heads, attention_latent_decode.MOST_HEADS), facts.dtype, is_scaled=kind is not None
            )
            tried = (
                [(64, 8, 3, 1), (32, 8, 3, 1), (32, 4, 3, 2), (32, 8, 4, 1), (64, 8, 2, 1)] if every and kind else []
            )
            for shape in dict.fromkeys([default, *(attention_latent_decode.Shape(*one) for one in tried)]):
                run = functools.partial(latent_decode, shape)
                yield f"{name} latent decode {heads} heads {batch} x {length}, {shape}", read, run, make
        for count, length in CHUNKS if chunks else ():
            make = functools.partial(arguments, facts, [count], [length], kind)
            yield f"{name} chunk of {count} on {length}", length * bytes_of_token, attend(kind), make


def measure_attention(kinds: list[str], **which: bool) -> None:
    device = torch.device("cuda", torch.cuda.current_device())

    def launch(_kernels: Callable[[], int]) -> None:
        for _, _, run, make in cases(Facts(torch.device("meta"), torch.bfloat16), kinds, **which):
            run(*make())

    # The first launch on a device makes what later ones share.
    warm = arguments(Facts(device, torch.bfloat16), [1], [10], None)
    attention.attend(*warm)
    with compiled_beside(launch, lambda text, *values: print(text % values, flush=True)):
        pass
    for name, group in itertools.groupby(
        cases(Facts(device, torch.bfloat16), kinds, **which), key=lambda case: case[0].split(",")[0]
    ):
        made, expected = None, None
        for title, read, run, make in group:
            made = made or make()
            got = run(*made)
            expected = got if expected is None else expected
            error = float((got.float() - expected.float()).norm() / expected.float().norm())
            calls = [functools.partial(run, *made)]
            if read < 256e6:
                calls += [functools.partial(run, *make()) for _ in range(min(int(256e6 / read), 7))]
            seconds = seconds_of(calls, device)[0]
            rate = f"{read / seconds / 1e12:.2f} TB/s, {100 * read / READ / seconds:.0f} %"
            print(f"{title}: {seconds * 1e6:.1f} us, {rate}, differs from the first by {error:.1e}", flush=True)
        del name, made


def measure_steps(kinds: list[str]) -> None:
    gpu.CONTEXT = CONTEXT
    for name in kinds:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(SHAPES["llama-8b"]))
            own = {"model_dir": folder, "load_format": "dummy", "device": "cuda", "kv_type": name}
            own |= {"running_max_req_size": ROWS, "max_req_total_len": 2 * CONTEXT}
            runner = Runner(parse(EngineConfig, own))
            print(f"{name}: {runner.pool_tokens} tokens in the pool", flush=True)
            steps = gpu.Steps(runner, BATCH)
            steps.run(10)
            print(f"{name}: a decode step at {BATCH} x {CONTEXT}: {1e3 * steps.run(60) / 60:.3f} ms", flush=True)
            del steps, runner
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*ATTENTION, "steps"], default=list(ATTENTION))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--all", action="store_true", help="other launch parameters of decodes, too")
    options = parser.parse_args()
    on_gpu.require()
    which = {name: name in options.what for name in ATTENTION}
    if any(which.values()):
        measure_attention(options.kinds, **which, every=options.all)
    if "steps" in options.what:
        measure_steps(options.kinds)


if __name__ == "__main__":
    main()
