"""Products of few tokens with weights of fewer bits on one GPU: checked, then timed with many launch parameters.

    python -m benchmarks.gpu_products [--json FILE] [--formats NAME ...] [--tokens N ...] [--default] [--tuned FILE]

Matrices are Llama-3.1-8B's. Times are of CUDA graph replays over copies that caches do not hold; all kernels are
compiled first, side by side. Floors are those of reading weights and scales once at 4.34 TB/s. Last, the four products
of four layers in one graph, each with what was best for it.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import on_gpu
from lightllm.bench.kernels.timing import seconds_of
from lightllm.compute import ops
from lightllm.compute.kernels.triton import launch, matvec_hopper, matvec_int4, matvec_w8a16, tuned
from lightllm.compute.kernels.triton.compiling import compiled_beside
from lightllm.compute.kernels.triton.quantize import quantize_tokens
from lightllm.compute.ops import int4

READ = 4.34e12
LAYERS = 4
SHARED_BYTES = 228_000  # that one program may have, about


@dataclass(frozen=True)
class Product:
    name: str
    outputs: int
    inputs: int
    gated: bool = False


PRODUCTS = (
    Product("qkv", 6144, 4096),
    Product("o", 4096, 4096),
    Product("gate_up", 28672, 4096, gated=True),
    Product("down", 4096, 14336),
)
TOKENS = (8, 16, 32, 64)
AGAIN = 4
GROUP = 128
EIGHT_BIT_STAGES = ((128, 5), (128, 6), (256, 2), (256, 3), (256, 4), (256, 5))
WEIGHT_STAGES = ((128, 2), (128, 3), (128, 4), (128, 6), (256, 2), (256, 4))
INT4_STAGES = ((128, 4), (128, 8), (256, 3), (256, 6), (512, 2), (512, 3))


class Int4:
    """Groups of 128 inputs."""

    op, kind, narrowest = "linear_int4", matvec_int4.Shape, matvec_int4.NARROWEST

    def weights(self, product: Product, device: torch.device) -> tuple[Tensor, ...]:
        groups = product.inputs // GROUP
        shape = product.outputs // int4.ROWS, product.inputs // int4.COLUMNS, *int4.WORDS
        words = torch.empty(shape, dtype=torch.int32, device=device)
        scales = torch.empty(groups, product.outputs, device=device)
        if device.type != "meta":
            words.random_(-(1 << 31), 1 << 31)
            scales.uniform_(0.5, 1.5).mul_(0.2 * product.inputs**-0.5)
        return words, (scales.view(torch.int32) & -16) | 8

    def bytes_moved(self, product: Product) -> float:
        return product.outputs * product.inputs * (0.5 + 4 / GROUP)

    def default(self, product: Product, tokens: int) -> Any:
        return matvec_int4.shape_for(tokens, product.outputs, product.inputs, gated=product.gated)

    def shapes(self, product: Product, tokens: int) -> Iterator[Any]:
        halves = (2,) if product.gated else (1, 2)
        # The matrix unit's older instructions for few tokens, those of groups of warps for many.
        for (inputs, stages), split, half, grouped in itertools.product(
            INT4_STAGES, (1, 2, 4, 8), halves, (False, True)
        ):
            programs = product.outputs // 64 // half * split
            each = inputs // 2 * 64 * half + 2 * inputs * tokens + 2 * inputs * half
            fits = 20_000 <= each * stages <= SHARED_BYTES // (2 if tokens < 32 else 1)
            likely = grouped == (tokens > 16) and (tokens <= 16 or inputs == 128)
            if likely and fits and 128 <= programs <= 600 and stages * split * inputs <= product.inputs:
                yield matvec_int4.Shape(inputs, stages, split, half, grouped)

    def given(self, x: Tensor) -> Tensor:
        return x

    def run(self, product: Product, shape: Any, x: Tensor, words: Tensor, steps: Tensor) -> Tensor:
        return matvec_int4.multiply(x, words, steps, GROUP, None, shape, gated=product.gated)

    def reference(self, product: Product, x: Tensor, words: Tensor, steps: Tensor) -> Tensor:
        op = ops.gated_linear_int4 if product.gated else ops.linear_int4
        return op.reference(x.float(), words, steps, None, GROUP, None)


@dataclass(frozen=True)
class EightBits:
    """A scale an output. Tokens are rounded beforehand, in time that is not counted."""

    dtype: torch.dtype
    op, kind, narrowest = "linear_per_channel", matvec_hopper.Shape, launch.NARROWEST

    def weights(self, product: Product, device: torch.device) -> tuple[Tensor, ...]:
        weight = torch.empty(product.outputs, product.inputs, dtype=torch.bfloat16, device=device)
        if device.type != "meta":
            weight.normal_(std=20)
        return weight.to(self.dtype), torch.full((product.outputs,), 0.05 * product.inputs**-0.5, device=device)

    def bytes_moved(self, product: Product) -> float:
        return product.outputs * product.inputs

    def default(self, product: Product, tokens: int) -> Any:
        return matvec_hopper.shape_of_8_bits(max(tokens, 16), product.outputs, product.inputs, gated=product.gated)

    def shapes(self, product: Product, tokens: int) -> Iterator[Any]:
        halves = (2,) if product.gated else (1, 2)
        for (inputs, stages), split, half in itertools.product(EIGHT_BIT_STAGES, (1, 2, 4, 8), halves):
            programs = product.outputs // 64 // half * split
            each = inputs * (64 * half + max(tokens, 16))
            fits = 40_000 <= each * stages <= SHARED_BYTES // 2
            if fits and 90 <= programs <= 600 and stages * split * inputs <= product.inputs:
                yield matvec_hopper.Shape(inputs, stages, split, half)

    def given(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_tokens(x, self.dtype)

    def run(self, product: Product, shape: Any, x: tuple[Tensor, Tensor], weight: Tensor, scale: Tensor) -> Tensor:
        numbers, x_scale = x
        return matvec_hopper.multiply(
            numbers, weight, None, shape, gated=product.gated, scales=(x_scale, scale), dtype=torch.bfloat16
        )

    def reference(self, product: Product, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        op = ops.gated_linear_per_channel if product.gated else ops.linear_per_channel
        return op.reference(x, weight, scale, None, True)


class Weights(EightBits):
    """As EightBits, of tokens that are not rounded."""

    def default(self, product: Product, tokens: int) -> Any:
        return matvec_w8a16.shape_for(max(tokens, 16), product.outputs, product.inputs, gated=product.gated)

    def shapes(self, product: Product, tokens: int) -> Iterator[Any]:
        halves = (2,) if product.gated else (1, 2)
        for (inputs, stages), split, half in itertools.product(WEIGHT_STAGES, (1, 2, 4), halves):
            programs = product.outputs // 64 // half * split
            each = inputs * (64 * half + 2 * max(tokens, 16))
            fits = 40_000 <= each * stages <= SHARED_BYTES // (2 if tokens < 64 else 1)
            if fits and 90 <= programs <= 400 and stages * split * inputs <= product.inputs:
                yield matvec_hopper.Shape(inputs, stages, split, half)

    def given(self, x: Tensor) -> Tensor:
        return x

    def run(self, product: Product, shape: Any, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        return matvec_w8a16.multiply(x, weight, scale, None, shape, gated=product.gated)

    def reference(self, product: Product, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        op = ops.gated_linear_per_channel if product.gated else ops.linear_per_channel
        return op.reference(x.float(), weight, scale, None, False)


FORMATS: dict[str, Any] = {
    "int4": Int4(),
    "fp8": EightBits(torch.float8_e4m3fn),
    "int8": EightBits(torch.int8),
    "fp8-weights": Weights(torch.float8_e4m3fn),
    "int8-weights": Weights(torch.int8),
}


def padded(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def candidates(format_: Any, product: Product, tokens: int, *, only_default: bool) -> list[Any]:
    default = format_.default(product, padded(tokens))
    others = () if only_default else format_.shapes(product, padded(tokens))
    return [default, *(one for one in others if one != default)]


def compile_all(formats: dict[str, Any], tokens: tuple[int, ...], *, only_default: bool) -> None:
    meta = torch.device("meta")

    def launch(_: Callable[[], int]) -> None:
        for format_, product, count in itertools.product(formats.values(), PRODUCTS, tokens):
            weights = format_.weights(product, meta)
            x = torch.empty(count, product.inputs, dtype=torch.bfloat16, device=meta)
            for shape in candidates(format_, product, count, only_default=only_default):
                format_.run(product, shape, format_.given(x), *weights)

    with compiled_beside(launch, lambda text, *values: print(text % values, flush=True)):
        pass


def measure(name: str, format_: Any, product: Product, tokens: int, *, only_default: bool) -> list[dict[str, Any]]:
    """Of all candidates, the best first; those that fail last. The first ones are timed twice."""
    device, size = torch.device("cuda"), format_.bytes_moved(product)
    x = torch.randn(tokens, product.inputs, dtype=torch.bfloat16, device=device)
    weights = [format_.weights(product, device) for _ in range(max(int(256e6 / size), 1))]
    expected, given = format_.reference(product, x, *weights[0]).float(), format_.given(x)

    def us(shape: Any) -> float:
        calls = [functools.partial(format_.run, product, shape, given, *one) for one in weights]
        return seconds_of(calls, device)[0] * 1e6

    rows = []
    for shape in candidates(format_, product, tokens, only_default=only_default):
        row = {"format": name, "product": product.name, "tokens": tokens, "shape": asdict(shape)}
        try:
            got = format_.run(product, shape, given, *weights[0]).float()
            row["error"] = float((got - expected).norm() / expected.norm())
            row |= {"us": us(shape), "floor": size / READ * 1e6, "is_default": not rows}
        except Exception as error:  # noqa: BLE001 (one failure must not cost the others)
            row["failure"] = f"{type(error).__name__}: {error}"[:200]
        rows.append(row)
    rows.sort(key=lambda row: row.get("us", float("inf")))
    for row in rows[:AGAIN]:
        if "us" in row:
            row["us"] = min(row["us"], us(format_.kind(**row["shape"])))
    return sorted(rows, key=lambda row: row.get("us", float("inf")))


def layers(name: str, format_: Any, tokens: int, best: dict[str, Any]) -> float:
    """Seconds of one layer's products, of LAYERS in a graph."""
    device = torch.device("cuda")
    stack = [[(one, format_.weights(one, device)) for one in PRODUCTS] for _ in range(LAYERS)]
    x = torch.randn(tokens, PRODUCTS[0].inputs, dtype=torch.bfloat16, device=device)

    def run() -> Tensor:
        y = x
        for product, weights in itertools.chain(*stack):
            y = format_.run(product, best[product.name], format_.given(y[:, : product.inputs]), *weights)
        return y

    return seconds_of([run], device)[0] / LAYERS


def show(rows: list[dict[str, Any]]) -> None:
    """One product's."""
    for row in rows:
        if "failure" in row:
            print("failed:", row["product"], row["tokens"], list(row["shape"].values()), row["failure"], flush=True)
    timed = [row for row in rows if "us" in row]
    best = ", ".join(f"{row['us']:.1f} {list(row['shape'].values())}" for row in timed[:4])
    default = next((row["us"] for row in timed if row["is_default"]), float("nan"))
    worst = max((row["error"] for row in timed), default=float("nan"))
    print(
        f"{rows[0]['format']} {rows[0]['product']:8} {rows[0]['tokens']:3} tokens: floor {timed[0]['floor']:5.1f} us, "
        f"default {default:5.1f}, error {worst:.1e}; best {best}",
        flush=True,
    )


def parameters(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a file of launch parameters holds of the best of each product: see kernels/triton/tuned.py."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        format_ = FORMATS[row["format"]]
        product = next(one for one in PRODUCTS if one.name == row["product"])
        op = tuned.op_key(f"{'gated_' if product.gated else ''}{format_.op}", format_.kind)
        sizes = max(padded(row["tokens"]), format_.narrowest), product.outputs, product.inputs
        found.setdefault(op, {})[tuned.key(sizes)] = row["shape"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="file that all figures go to")
    parser.add_argument("--tuned", help="file that the best launch parameters go to, beside those of the package")
    parser.add_argument("--formats", nargs="*", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--default", action="store_true", help="only the parameters that are compiled in")
    options = parser.parse_args()
    on_gpu.require()
    torch.manual_seed(0)
    formats, tokens = {name: FORMATS[name] for name in options.formats}, tuple(options.tokens)
    rows: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    with torch.inference_mode():
        compile_all(formats, tokens, only_default=options.default)
        for (name, format_), count in itertools.product(formats.items(), tokens):
            for product in PRODUCTS:
                mine = measure(name, format_, product, count, only_default=options.default)
                show(mine)
                rows += mine
                best.append(mine[0])
                torch.cuda.empty_cache()
            chosen = {row["product"]: format_.kind(**row["shape"]) for row in best[-len(PRODUCTS) :]}
            floor = sum(row["floor"] for row in best[-len(PRODUCTS) :])
            took = layers(name, format_, count, chosen) * 1e6
            print(f"{name} layer    {count:3} tokens: floor {floor:5.1f} us, {took:5.1f} us", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps(rows, indent=1))
    if options.tuned:
        device = torch.device("cuda", torch.cuda.current_device())
        before = tuned.read(tuned.path_for(torch.cuda.get_device_name(device), tuned.PACKAGED))
        Path(options.tuned).write_text(json.dumps({"parameters": before | parameters(best)}, indent=1))


if __name__ == "__main__":
    main()
