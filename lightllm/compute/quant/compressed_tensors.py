"""Which formats a checkpoint of compressed-tensors has: schemes for groups of modules, and modules left alone.

Source: github.com/vllm-project/compressed-tensors.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import torch

from lightllm.base.errors import ConfigError
from lightllm.compute.ops.fp8_block import TILE
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.packed import Packed
from lightllm.compute.quant.per_channel import PerChannel

FORMATS = ("float-quantized", "naive-quantized", "int-quantized", "pack-quantized")
EVERY_LINEAR = "Linear"
EXPRESSION = "re:"
DENSE = "dense"
# Whether inputs lie scattered over the groups. `static` and `dynamic` are other names of the two before them.
ORDERS = {None: False, False: False, True: True, "weight": False, "group": True, "static": False, "dynamic": True}
_ROUNDED = "symmetric, of the weights' type, one scale a token (dynamic=True) or for all (strategy=tensor)"


class Numbers(msgspec.Struct, kw_only=True):
    """How weights or activations are rounded."""

    type: str | None = None
    num_bits: int | None = None
    strategy: str | None = None
    symmetric: bool = True
    dynamic: bool | str | None = False
    group_size: int | None = None
    block_structure: Any = None
    actorder: bool | str | None = None

    @property
    def kind(self) -> str:
        return f"{self.type}{self.num_bits}"


class Scheme(msgspec.Struct, kw_only=True):
    """A format, and what has it."""

    targets: list[str]
    weights: Numbers | None = None
    input_activations: Numbers | None = None
    output_activations: Any = None
    format: str | None = None


class Sparsity(msgspec.Struct):
    format: str = DENSE


class Config(msgspec.Struct, kw_only=True):
    """The fields that matter here."""

    config_groups: dict[str, Scheme]
    format: str | None = None
    ignore: list[str] | None = None
    sparsity_config: Sparsity | None = None
    transform_config: Any = None


def methods(stated: Mapping[str, Any], plain: LinearMethod) -> Callable[[str], LinearMethod]:
    """Module path -> its method. Raises ConfigError naming what is not supported."""
    try:
        config = msgspec.convert(stated, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"quantization_config of compressed-tensors is not as it should be: {error}") from error
    if config.transform_config:
        raise ConfigError("transform_config of compressed-tensors is not supported; supported: none")
    if config.sparsity_config and config.sparsity_config.format != DENSE:
        form = config.sparsity_config.format
        raise ConfigError(f"sparsity_config with format={form} is not supported; supported: {DENSE}")
    schemes = config.config_groups.values()
    formats = [(_matcher(scheme.targets), _method(scheme, str(scheme.format or config.format))) for scheme in schemes]
    every = [one for scheme, (_, one) in zip(schemes, formats, strict=True) if EVERY_LINEAR in scheme.targets]
    is_ignored = _matcher(config.ignore or ())

    def choose(path: str) -> LinearMethod:
        if is_ignored(path):
            return plain
        found = [method for is_target, method in formats if is_target(path)]
        return (found + every + [plain])[0]

    return choose


def _matcher(entries: Sequence[str]) -> Callable[[str], bool]:
    """Module path -> whether it is among these paths, or ends with one, or an expression matches its beginning."""
    ends = tuple(f".{entry}" for entry in entries if not entry.startswith(EXPRESSION))
    patterns = [entry.removeprefix(EXPRESSION) for entry in entries if entry.startswith(EXPRESSION)]
    try:
        expressions = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ConfigError(
            f"quantization_config has {error.pattern!r}, which is no regular expression: {error}"
        ) from error
    return lambda path: f".{path}".endswith(ends) or any(expression.match(path) for expression in expressions)


def _method(scheme: Scheme, form: str) -> LinearMethod:
    weights, activations = scheme.weights or Numbers(), scheme.input_activations
    if form not in FORMATS:
        raise ConfigError(f"compressed-tensors' format {form} is not supported; supported: {', '.join(FORMATS)}")
    if scheme.output_activations:
        raise ConfigError("output_activations of compressed-tensors are not supported; supported: none")
    match weights.kind, form == "pack-quantized":
        case "float8", False:
            return _float8(weights, activations)
        case "int8", False:
            return PerChannel("int8", torch.int8, _rounds(activations, weights), _source(weights))
        case "int4", True if activations is None:
            return _int4(weights)
    with_activations = "" if activations is None else " with activations quantized"
    raise ConfigError(
        f"weights of type {weights.kind}{with_activations} in format {form} are not supported by compressed-tensors; "
        "supported: float8 and int8 (float-quantized, int-quantized), int4 alone (pack-quantized)"
    )


def _float8(weights: Numbers, activations: Numbers | None) -> LinearMethod:
    if weights.strategy != "block":
        return PerChannel("fp8", torch.float8_e4m3fn, _rounds(activations, weights), _source(weights))
    _symmetric(weights)
    given = activations or Numbers()
    stated = f"strategy={given.strategy}, group_size={given.group_size}, dynamic={given.dynamic}"
    if stated != (supported := f"strategy=group, group_size={TILE}, dynamic=True"):
        raise ConfigError(
            f"float8 in blocks with input_activations of {stated} is not supported; supported: {supported}"
        )
    match weights.block_structure:
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Fp8Block((rows, columns), scale="weight_scale")
    raise ConfigError(f"block_structure={weights.block_structure} is not supported; supported: [rows, columns]")


def _int4(weights: Numbers) -> LinearMethod:
    size = 0 if weights.strategy == "channel" else weights.group_size or 0
    if weights.strategy not in ("channel", "group") or (weights.strategy == "group" and size < 1):
        raise ConfigError(
            f"int4 with strategy={weights.strategy}, group_size={weights.group_size} is not supported; supported: "
            "channel, group"
        )
    if weights.actorder not in ORDERS:
        given = weights.actorder
        raise ConfigError(f"actorder={given} is not supported; supported: weight, group, static, dynamic, null")
    return Packed(size, symmetric=weights.symmetric, order=ORDERS[weights.actorder])


def _source(weights: Numbers) -> Literal["channel", "tensor"]:
    _symmetric(weights)
    match weights.strategy:
        case "channel" | "tensor" as source:
            return source
    raise ConfigError(
        f"{weights.kind} weights with strategy={weights.strategy} are not supported; supported: channel, tensor"
    )


def _symmetric(weights: Numbers) -> None:
    if not weights.symmetric:
        raise ConfigError(f"{weights.kind} weights with symmetric=False are not supported; supported: True")


def _rounds(activations: Numbers | None, weights: Numbers) -> bool:
    """Whether activations are rounded. Raises ConfigError if that would be other than each token by its own scale, or
    by one that was measured for all, in whose place each token gets its own."""
    if activations is None:
        return False
    has_scales = activations.strategy == "tensor" or (activations.strategy == "token" and activations.dynamic is True)
    if not (activations.kind == weights.kind and has_scales and activations.symmetric):
        names = ("type", "num_bits", "strategy", "dynamic", "symmetric")
        given = ", ".join(f"{name}={getattr(activations, name)}" for name in names)
        raise ConfigError(f"input_activations with {given} are not supported; supported: {_ROUNDED}")
    return True
