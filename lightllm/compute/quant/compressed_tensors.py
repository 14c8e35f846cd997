"""Which formats a checkpoint of compressed-tensors has: schemes for groups of modules, and modules left alone.

Source: github.com/vllm-project/compressed-tensors.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightllm.base.errors import ConfigError
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.packed import Packed
from lightllm.compute.quant.per_channel import PerChannel

FORMATS = ("float-quantized", "naive-quantized", "int-quantized", "pack-quantized")
EVERY_LINEAR = "Linear"
DENSE = "dense"
# What it says of the groups of inputs: the last two are as it calls them, too.
ORDERS = {None: False, "weight": False, "group": True, "static": False, "dynamic": True, False: False, True: True}
_ROUNDED = "symmetric, of the weights' type, one scale a token (dynamic=True) or for all (strategy=tensor)"


def methods(config: Mapping[str, Any], plain: LinearMethod) -> Callable[[str], LinearMethod]:
    """Module path -> its method. Raises ConfigError naming what is not supported."""
    if config.get("transform_config"):
        raise ConfigError("transform_config of compressed-tensors is not supported; supported: none")
    if (sparse := (config.get("sparsity_config") or {}).get("format", DENSE)) != DENSE:
        raise ConfigError(f"sparsity_config with format={sparse} is not supported; supported: {DENSE}")
    schemes = [
        (tuple(scheme.get("targets") or ()), _method(scheme, str(scheme.get("format") or config.get("format"))))
        for scheme in (config.get("config_groups") or {}).values()
    ]
    ignored = tuple(config.get("ignore") or ())

    def choose(path: str) -> LinearMethod:
        if any(_matches(entry, path) for entry in ignored):
            return plain
        found = [method for targets, method in schemes if any(_matches(target, path) for target in targets)]
        every = [method for targets, method in schemes if EVERY_LINEAR in targets]
        return (found + every + [plain])[0]

    return choose


def _matches(entry: str, path: str) -> bool:
    """entry: a module's path, or the end of it, or a regular expression after `re:` that its beginning must match."""
    if entry.startswith("re:"):
        return re.match(entry.removeprefix("re:"), path) is not None
    return path == entry or path.endswith(f".{entry}")


def _method(scheme: Mapping[str, Any], form: str) -> LinearMethod:
    weights, activations = scheme.get("weights") or {}, scheme.get("input_activations")
    kind = f"{weights.get('type')}{weights.get('num_bits')}"
    if form not in FORMATS:
        raise ConfigError(f"compressed-tensors' format {form} is not supported; supported: {', '.join(FORMATS)}")
    if scheme.get("output_activations"):
        raise ConfigError("output_activations of compressed-tensors are not supported; supported: none")
    strategy = str(weights.get("strategy"))
    match kind, form == "pack-quantized":
        case "float8", False:
            return _float8(strategy, weights, activations)
        case "int8", False:
            _symmetric(weights, kind)
            return PerChannel("int8", torch.int8, _rounds(activations, weights), _source(strategy, kind))
        case "int4", True if activations is None:
            return _int4(strategy, weights)
    with_activations = "" if activations is None else " with activations quantized"
    raise ConfigError(
        f"weights of type {kind}{with_activations} in format {form} are not supported by compressed-tensors; "
        "supported: float8 and int8 (float-quantized, int-quantized), int4 alone (pack-quantized)"
    )


def _float8(strategy: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> LinearMethod:
    _symmetric(weights, "float8")
    if strategy != "block":
        rounds = _rounds(activations, weights)
        return PerChannel("fp8", torch.float8_e4m3fn, rounds, _source(strategy, "float8"))
    if not (activations and activations.get("dynamic") and activations.get("strategy") == "group"):
        raise ConfigError("float8 in blocks is supported with activations that are dynamic, in groups; not without")
    match weights.get("block_structure"):
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Fp8Block((rows, columns), scale="weight_scale")
        case structure:
            raise ConfigError(f"block_structure={structure} is not supported; supported: [rows, columns]")


def _int4(strategy: str, weights: Mapping[str, Any]) -> LinearMethod:
    size = weights.get("group_size")
    if strategy == "channel":
        size = 0
    elif strategy != "group" or not isinstance(size, int) or size < 1:
        raise ConfigError(
            f"int4 with strategy={strategy}, group_size={size} is not supported; supported: channel, group"
        )
    actorder = weights.get("actorder")
    if actorder not in ORDERS:
        raise ConfigError(f"actorder={actorder} is not supported; supported: weight, group, static, dynamic, null")
    return Packed(size, symmetric=bool(weights.get("symmetric", True)), order=ORDERS[actorder])


def _source(strategy: str, kind: str) -> Any:
    if strategy not in ("channel", "tensor"):
        raise ConfigError(f"{kind} weights with strategy={strategy} are not supported; supported: channel, tensor")
    return strategy


def _symmetric(weights: Mapping[str, Any], kind: str) -> None:
    if not weights.get("symmetric", True):
        raise ConfigError(f"{kind} weights with symmetric=False are not supported; supported: True")


def _rounds(activations: Mapping[str, Any] | None, weights: Mapping[str, Any]) -> bool:
    """Whether activations are rounded. Raises ConfigError if that would be other than each token by its own scale, or
    by one that was measured for all, in whose place each token gets its own."""
    if activations is None:
        return False
    stated = {name: activations.get(name) for name in ("type", "num_bits", "strategy", "dynamic")}
    is_alike = all(stated[name] == weights.get(name) for name in ("type", "num_bits"))
    has_scales = stated["strategy"] == "tensor" or (stated["strategy"], stated["dynamic"]) == ("token", True)
    if not (is_alike and has_scales and activations.get("symmetric", True)):
        given = ", ".join(f"{name}={value}" for name, value in stated.items())
        given += f", symmetric={activations.get('symmetric', True)}"
        raise ConfigError(f"input_activations with {given} are not supported; supported: {_ROUNDED}")
    return True
