"""Mixtures of experts on one GPU: checked against the reference, then each part by many launch parameters.

    python -m benchmarks.gpu_experts [--json FILE] [--models NAME ...] [--tokens N ...]

All kernels are compiled first, side by side. Times are of CUDA graph replays, each call with a routing of its own that
is drawn evenly among all experts. Floors are those of reading every chosen expert once at 4.34 TB/s.
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import on_gpu
from lightllm.bench.kernels.timing import seconds_of
from lightllm.compute import ops
from lightllm.compute.kernels.triton import experts, routing
from lightllm.compute.kernels.triton.compiling import compiled_beside
from lightllm.compute.kernels.triton.expert_products import Matrices, multiply, multiply_gated
from lightllm.compute.kernels.triton.expert_rows import combine, sort
from lightllm.compute.kernels.triton.experts import Shape
from lightllm.compute.kernels.triton.quantize import quantize_groups
from lightllm.compute.ops.fp8_block import TILE

READ = 4.34e12
ROUTINGS = 8


@dataclass(frozen=True)
class Model:
    """Sizes of one layer on one rank."""

    experts: int
    hidden: int
    width: int
    top_k: int
    format: str
    tokens: tuple[int, ...]

    @property
    def expert_bytes(self) -> int:
        return 3 * self.hidden * self.width * (2 if self.format == "plain" else 1)


MODELS = {
    "qwen3-30b-a3b": Model(128, 2048, 768, 8, "plain", (1, 8, 32, 64, 256, 1024, 8192)),
    "deepseek-v2-lite": Model(64, 2048, 1408, 6, "plain", (1, 8, 64)),
    "deepseek-v3 tp8": Model(256, 7168, 256, 8, "scaled", (1, 8, 16, 32, 64, 256, 1024, 4096)),
}


class Layer:
    """Random matrices and inputs. On the device meta: of the right types and shapes only."""

    def __init__(
        self, model: Model, tokens: int, device: torch.device, weights: tuple[Matrices, Matrices] | None = None
    ):
        self.model, self.tokens = model, tokens
        make: dict[str, Any] = {"device": device}
        self.gate_up, self.down = weights or (
            matrices(model, 2 * model.width, model.hidden, device),
            matrices(model, model.hidden, model.width, device),
        )
        self.x = torch.randn(tokens, model.hidden, dtype=torch.bfloat16, **make)
        self.router = torch.randn(model.experts, model.hidden, **make) * model.hidden**-0.5
        self.logits = [torch.randn(1, tokens, model.experts, **make) for _ in range(ROUTINGS)]

    def routed(self) -> list[tuple[Tensor, Tensor]]:
        return [routing.route_softmax(logits, self.model.top_k, 1, 1, True, 1.0) for logits in self.logits]

    def parts(self, shape: Shape, routed: tuple[Tensor, Tensor]) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The kernels of one call, by name."""
        model, (choice, share) = self.model, routed
        yield "router", lambda: ops.router_logits(self.x, self.router)
        yield "route", lambda: routing.route_softmax(self.logits[0], model.top_k, 1, 1, True, 1.0)
        rows = sort(choice, 0, model.experts, shape.rows)
        yield "sort", lambda: sort(choice, 0, model.experts, shape.rows)
        given, scale = self.x, None
        if model.format == "scaled":
            given, scale = quantize_groups(self.x, torch.float8_e4m3fn)
            yield "quantize", lambda: quantize_groups(self.x, torch.float8_e4m3fn)
        first = functools.partial(
            multiply_gated, given, scale, self.gate_up, rows, shape.wide, top_k=model.top_k, dtype=self.x.dtype
        )
        yield "first", first
        wide, wide_scale = first()
        second = functools.partial(
            multiply,
            wide,
            wide_scale,
            self.down,
            rows,
            shape.narrow(self.down.inputs),
            group=shape.outputs,
            dtype=self.x.dtype,
        )
        yield "second", second
        narrow = second()
        yield "combine", lambda: combine(narrow, rows.place, share)

    def whole(self, shape: Shape, routed: tuple[Tensor, Tensor]) -> Tensor:
        return experts.mixture(self.x, self.gate_up, self.down, *routed, 0, shape=shape)


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def matrices(model: Model, outputs: int, inputs: int, device: torch.device) -> Matrices:
    shape = (model.experts, outputs, inputs)
    if model.format == "plain":
        weight = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=inputs**-0.5)
        return Matrices("plain", weight, outputs, inputs)
    weight = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
    for one in weight if device.type != "meta" else ():
        one.copy_(torch.randn(outputs, inputs, device=device))
    scale = (torch.rand(model.experts, outputs // TILE, inputs // TILE, device=device) + 0.5) * inputs**-0.5
    row_tile, column_tile = (torch.arange(size, device=device) // TILE for size in (outputs, inputs))
    return Matrices(model.format, weight, outputs, inputs, (scale, row_tile, column_tile))


def shapes(model: Model, tokens: int) -> list[Shape]:
    """What to try. Both products vary together, as they are timed one by one."""
    counted = min(tokens, experts.MOST_TOKENS)
    default = experts.shape_for(model.format, counted, model.experts, model.top_k, torch.bfloat16)
    mean = counted * model.top_k / model.experts
    blocks = [16] if mean <= 4 else [16, 32] if mean <= 16 else [32, 64] if mean <= 64 else [64, 128]
    if model.format == "plain":
        wide = [(64, 64, 4, 6), (64, 128, 4, 3), (128, 64, 8, 4), (128, 64, 8, 3), (64, 64, 8, 4), (128, 128, 8, 2)]
        narrow = [(64, 64, 4, 4), (128, 64, 4, 4), (128, 128, 8, 3), (256, 64, 8, 3), (128, 64, 8, 4), (64, 128, 4, 4)]
    elif mean <= 64:
        wide = [
            (128, 128, 4, 3),
            (128, 128, 4, 4),
            (128, 128, 8, 4),
            (64, 128, 4, 4),
            (64, 128, 4, 6),
            (128, 128, 8, 3),
        ]
        narrow = [(128, 128, 4, 3, 2), (128, 128, 4, 3, 4), (128, 128, 4, 3, 8), (128, 64, 4, 4, 2), (128, 64, 4, 4, 8),
                  (64, 128, 4, 4, 8)]  # fmt: skip
    else:
        wide = [(64, 128, 4, 4), (128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 8, 3), (64, 128, 4, 3), (64, 128, 8, 4)]
        narrow = [(128, 64, 4, 3, 4), (128, 128, 4, 3, 4), (128, 128, 4, 2, 2), (128, 128, 4, 3, 8), (128, 64, 4, 4, 2),
                  (128, 64, 8, 4, 8)]  # fmt: skip
        blocks = [64]
    made = [Shape(rows, *one, *other) for rows in blocks for one, other in zip(wide, narrow, strict=True)]
    return [default, *(one for one in made if one != default)]


def reference(layer: Layer, routed: tuple[Tensor, Tensor]) -> Tensor:
    arguments = [*_tensors(layer.gate_up), *_tensors(layer.down), *routed, 0]
    op = ops.gated_experts if layer.model.format == "plain" else ops.gated_experts_fp8_block
    return op.reference(layer.x, *arguments)


def _tensors(matrices: Matrices) -> list[Tensor]:
    return [matrices.weight, *matrices.more]


def compile_all(models: dict[str, Model]) -> None:
    """Everything that will be launched. Matrices of one model are large: these have no memory."""

    def launch(_: Callable[[], int]) -> None:
        for model in models.values():
            for tokens in model.tokens:
                layer = Layer(model, tokens, torch.device("meta"))
                for shape in shapes(model, tokens):
                    layer.whole(shape, layer.routed()[0])

    with compiled_beside(launch, lambda text, *values: print(text % values, flush=True)):
        pass


def measure(name: str, model: Model, tokens: int, weights: tuple[Matrices, Matrices]) -> Iterator[dict[str, Any]]:
    device = _device()
    layer = Layer(model, tokens, device, weights)
    routed = layer.routed()
    read = sum(len(choice.unique()) for choice, _ in routed) / ROUTINGS * model.expert_bytes
    expected = reference(layer, routed[0])
    for shape in shapes(model, tokens):
        row: dict[str, Any] = {"model": name, "tokens": tokens, "floor_us": read / READ * 1e6, "shape": asdict(shape)}
        try:
            got = layer.whole(shape, routed[0])
            row["error"] = float((got.float() - expected.float()).norm() / expected.float().norm())
            calls = [dict(layer.parts(shape, one)) for one in routed]
            for part in calls[0]:
                row[part] = seconds_of([call[part] for call in calls], device)[0] * 1e6
            row["whole"] = seconds_of([functools.partial(layer.whole, shape, one) for one in routed], device)[0] * 1e6
        except Exception as error:  # noqa: BLE001 (one failure must not cost the others)
            row["failure"] = f"{type(error).__name__}: {error}"[:300]
        yield row


_FIELDS = {
    "first": ["rows", "outputs", "inputs", "warps", "stages"],
    "second": ["rows", "down_outputs", "down_inputs", "down_warps", "down_stages", "down_run"],
}


def show(rows: list[dict[str, Any]]) -> None:
    """The best of each size: the whole, and each part by the parameters that are best for it."""
    for key, group in itertools.groupby(rows, key=lambda row: (row["model"], row["tokens"])):
        mine = list(group)
        for row in mine:
            if "failure" in row:
                print(key, row["shape"], row["failure"])
        mine = [row for row in mine if "whole" in row]
        if not mine:
            continue
        best = min(mine, key=lambda row: row["whole"])
        print(
            f"{key[0]:16} {key[1]:5} tokens: {best['whole']:8.1f} us, floor {best['floor_us']:7.1f},"
            f" default {mine[0]['whole']:8.1f}, error {max(row['error'] for row in mine):.1e}"
        )
        for part in ("router", "route", "sort", "quantize", "first", "second", "combine"):
            if part in best:
                row = min(mine, key=lambda row: row[part])
                shape = row["shape"]
                chosen = " ".join(str(shape[name]) for name in _FIELDS.get(part, ["rows"]))
                print(f"    {part:9} {row[part]:8.1f} us ({mine[0][part]:8.1f} by default): {chosen}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="file that all figures go to")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--tokens", nargs="*", type=int, help="of all models, instead of their own")
    options = parser.parse_args()
    on_gpu.require()
    chosen = {name: MODELS[name] for name in options.models}
    if options.tokens:
        chosen = {name: replace(model, tokens=tuple(options.tokens)) for name, model in chosen.items()}
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    with torch.inference_mode():
        compile_all(chosen)
        device = _device()
        for name, model in chosen.items():
            weights = Layer(model, 1, device)
            for tokens in model.tokens:
                rows += measure(name, model, tokens, (weights.gate_up, weights.down))
                if options.json:
                    Path(options.json).write_text(json.dumps(rows, indent=1))
            del weights
            torch.cuda.empty_cache()
            print(f"{name}: measured after {time.perf_counter() - began:.0f} s", flush=True)
    show(rows)


if __name__ == "__main__":
    main()
