"""Which products and heads a model has on one rank, from its config.json alone."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lightllm.base.checkpoint_files import read_json
from lightllm.base.quantization import stated
from lightllm.compute.execution.materialize import place
from lightllm.compute.layers.attention import Attention
from lightllm.compute.layers.linear import Projection
from lightllm.compute.layers.mlp import GatedMLP
from lightllm.compute.layers.moe import Experts, MixtureOfExperts
from lightllm.compute.layers.vocabulary import Vocabulary
from lightllm.compute.models import registry
from lightllm.compute.ops.fp8_block import TILE
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.quant.select import method_for


@dataclass(frozen=True, order=True)
class Product:
    """A matrix [outputs, inputs] of 16 bits. gated: its first half are gates of the second."""

    outputs: int
    inputs: int
    gated: bool


@dataclass(frozen=True, order=True)
class Heads:
    heads: int
    kv_heads: int
    dim: int


@dataclass(frozen=True, order=True)
class Mixture:
    """Of `experts` a token chooses top_k. bits: of a weight; those of 8 are floats with a scale for each 128 x 128."""

    experts: int
    top_k: int
    hidden: int
    width: int
    bits: int


@dataclass(frozen=True)
class ModelSizes:
    """Each once, whatever the number of layers."""

    products: tuple[Product, ...]
    heads: tuple[Heads, ...]
    mixtures: tuple[Mixture, ...] = ()


def of(directory: Path, *, tp: int) -> ModelSizes:
    """On rank 0 of `tp`. Formats without launch parameters that can be searched are left out. Raises ConfigError."""
    raw = read_json(directory, "config.json", required=True)
    model = registry.build(registry.load_config(raw)[1])
    methods, mesh = method_for(stated(directory, raw)), Mesh(tensor=Group(ranks=tp))
    place(model, mesh=mesh, dtype=torch.bfloat16, method_for=methods)
    products, heads, mixtures = set(), set(), set()
    for layer in model.modules():
        if isinstance(layer, Projection) and isinstance(layer.method, Unquantized):
            products.add(_product(layer))
        elif isinstance(layer, Vocabulary):
            products.add(Product(-(-layer.vocab // tp), layer.hidden, gated=False))
    for layer in model.modules():
        if isinstance(layer, GatedMLP) and isinstance(layer.gate_up_proj.method, Unquantized):
            plain = _product(layer.gate_up_proj)
            products.discard(plain)
            products.add(Product(plain.outputs, plain.inputs, gated=True))
        elif isinstance(layer, Attention):
            heads.add(Heads(layer.qkv_proj.local_heads, layer.qkv_proj.local_kv_heads, layer.dim))
        elif isinstance(layer, MixtureOfExperts) and (bits := _bits(layer.experts)):
            sizes = layer.experts.local_experts, layer.gate.top_k, layer.experts.hidden, layer.experts.local_width
            mixtures.add(Mixture(*sizes, bits))
    return ModelSizes(tuple(sorted(products)), tuple(sorted(heads)), tuple(sorted(mixtures)))


def _bits(experts: Experts) -> int | None:
    if isinstance(experts.method, Unquantized):
        return 16
    sizes = experts.hidden, experts.local_width
    is_whole = experts.method == Fp8Block((TILE, TILE)) and not any(size % TILE for size in sizes)
    return 8 if is_whole else None


def _product(layer: Projection) -> Product:
    return Product(sum(run.share.count for run in layer.matrix.outputs), layer.matrix.inputs.count, gated=False)
