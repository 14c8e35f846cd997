"""Formats that are made of a checkpoint's floats as these are read: `--quant_type`, `--quant_cfg`."""

import re
from functools import cache
from pathlib import Path
from types import MappingProxyType

import msgspec
import torch

from lightllm.base.config import QUANT_TYPES
from lightllm.base.errors import ConfigError
from lightllm.compute.ops.fp8_block import TILE
from lightllm.compute.quant.fp6 import MadeFp6
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.made_int4 import MadeInt4
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.quant.per_channel import PerChannel

# What recipes call modules, beside what checkpoints do: several that are computed as one, and those of other names.
OTHER_NAMES = MappingProxyType(
    {
        "q_proj": ("qkv_proj",),
        "k_proj": ("kv_proj", "qkv_proj"),
        "v_proj": ("kv_proj", "qkv_proj"),
        "gate_proj": ("gate_up_proj",),
        "up_proj": ("gate_up_proj",),
        "wqkv": ("qkv_proj",),
        "wo": ("o_proj",),
        "w1": ("gate_proj", "gate_up_proj"),
        "w3": ("up_proj", "gate_up_proj"),
        "w2": ("down_proj",),
        "output": ("lm_head",),
    }
)
# Matrices that a checkpoint keeps as one, of which a recipe cannot name a part.
PARTS = MappingProxyType({"wqkv": ("q_proj", "k_proj", "v_proj", "kv_proj")})
EXPERTS = "fused_moe"
ROUTER = "moe_gate"  # which is never quantized
NAMES = frozenset(
    ("q_proj", "k_proj", "v_proj", "kv_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")
    + ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", EXPERTS, "lm_head")
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_IN_EXPERT = re.compile(r"\.experts\.\d+\.")


class Mix(msgspec.Struct, forbid_unknown_fields=True):
    """Another format for one name, in some layers or in all."""

    name: str
    quant_type: str
    layer_nums: list[int] | None = None


class Recipe(msgspec.Struct, forbid_unknown_fields=True):
    """What a file of `--quant_cfg` says."""

    quant_type: str = "none"
    mix_bits: list[Mix] = []


class Methods:
    """Module path -> its method, as `--quant_type` or a file of `--quant_cfg` (or none: empty) says.

    Raises ConfigError naming what is wrong, as does the choice where a recipe names a part of what the checkpoint keeps
    as one.
    """

    def __init__(self, quant_type: str, file: str):
        recipe = _read(Path(file)) if file else Recipe(quant_type)
        if file and quant_type not in ("none", recipe.quant_type):
            raise ConfigError(
                f"--quant_type={quant_type} and {file} (quant_type: {recipe.quant_type}) differ; give one"
            )
        self._file, self._default = file, method_named(recipe.quant_type)
        self._mixes = [_Mixed(mix, method_named(mix.quant_type)) for mix in recipe.mix_bits if mix.name != ROUTER]

    def __call__(self, path: str) -> LinearMethod:
        # As in a list of exceptions, the last word counts.
        found = [mixed.method for mixed in self._mixes if mixed.is_of(path)]
        return found[-1] if found else self._default

    def why_not(self) -> str | None:
        """What the recipe names and no path that was asked for had."""
        reason = next(filter(None, (mixed.why_not() for mixed in self._mixes)), None)
        return reason and f"--quant_cfg={self._file} names {reason}"


class _Mixed:
    """An entry of a recipe, and in which layers (or none) there is something of its name."""

    def __init__(self, mix: Mix, method: LinearMethod):
        self._mix, self.method = mix, method
        self._met: set[int | None] = set()

    def is_of(self, path: str) -> bool:
        if not _is_called(self._mix.name, path):
            return False
        found = _LAYER.search(path)
        layer = int(found[1]) if found else None
        self._met.add(layer)
        return self._mix.layer_nums is None or layer in self._mix.layer_nums

    def why_not(self) -> str | None:
        name, wanted = self._mix.name, self._mix.layer_nums
        if not self._met:
            return f"{name}, of which this model has nothing that may be quantized; take the entry out"
        if lacking := sorted(set(wanted or ()) - self._met):
            layers = sorted(layer for layer in self._met if layer is not None)
            where = f"it has {name} in layers {layers[0]} to {layers[-1]}" if layers else f"{name} is in no layer"
            return f"{name} in layers {', '.join(map(str, lacking))}, where this model has none; {where}"
        return None


@cache
def method_named(quant_type: str) -> LinearMethod:
    """The same object for the same name. Raises ConfigError if there is none of it."""
    if quant_type not in QUANT_TYPES:
        raise ConfigError(f"quant_type {quant_type} is not supported; supported: {', '.join(QUANT_TYPES)}")
    kind = quant_type.removeprefix("vllm-").removeprefix("triton-").removeprefix("deepgemm-")
    match kind:
        case "none":
            return Unquantized()
        case "w8a8" | "ao-w8a8":
            return PerChannel("int8", torch.int8, True, "made")
        case "ao-w8a16" | "ao-int8wo":
            return PerChannel("int8 weights", torch.int8, False, "made")
        case "fp8w8a8":
            return PerChannel("fp8", torch.float8_e4m3fn, True, "made")
        case "ao-fp8w8a16":
            return PerChannel("fp8 weights", torch.float8_e4m3fn, False, "made")
        case "ao-fp6w6a16" | "flashllm-w6a16":
            return MadeFp6()
        case "fp8w8a8-b128" | "fp8w8a8-block128":
            return Fp8Block((TILE, TILE), scale=None)
    return MadeInt4(int(kind.rpartition("-")[2]))


def _is_called(wanted: str, path: str) -> bool:
    """Whether a recipe's name is that of a module."""
    if _IN_EXPERT.search(path):
        return wanted == EXPERTS
    name = path.rpartition(".")[2]
    if wanted in PARTS.get(name, ()):
        raise ConfigError(f"the recipe names {wanted}, which this checkpoint keeps within {name}; name qkv_proj")
    return wanted in (name, *OTHER_NAMES.get(name, ()))


def _read(file: Path) -> Recipe:
    import yaml  # only where such a file is given

    try:
        recipe = msgspec.convert(yaml.safe_load(file.read_text()), Recipe)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"--quant_cfg={file} cannot be read: {error}") from error
    for mix in recipe.mix_bits:
        if mix.name == ROUTER and mix.quant_type == "none":
            continue
        if mix.name not in NAMES:
            raise ConfigError(f"{file} names {mix.name}, which cannot be quantized; names: {', '.join(sorted(NAMES))}")
    return recipe
