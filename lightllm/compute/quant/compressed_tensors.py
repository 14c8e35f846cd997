"""Which formats a checkpoint of compressed-tensors has: schemes for groups of modules, and modules left alone.

Source: github.com/vllm-project/compressed-tensors.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightllm.base.errors import ConfigError
from lightllm.compute.ops.fp8_block import TILE
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
    groups = config.get("config_groups") or {}
    if not isinstance(groups, dict) or not all(isinstance(scheme, dict) for scheme in groups.values()):
        raise ConfigError(f"config_groups={groups} of compressed-tensors is not supported; supported: named schemes")
    schemes = [
        (_matcher(scheme, "targets"), _method(scheme, str(scheme.get("format") or config.get("format"))))
        for scheme in groups.values()
    ]
    every = [
        method
        for scheme, (_, method) in zip(groups.values(), schemes, strict=True)
        if EVERY_LINEAR in (scheme.get("targets") or ())
    ]
    is_ignored = _matcher(config, "ignore")

    def choose(path: str) -> LinearMethod:
        if is_ignored(path):
            return plain
        found = [method for is_target, method in schemes if is_target(path)]
        return (found + every + [plain])[0]

    return choose


def _matcher(config: Mapping[str, Any], field: str) -> Callable[[str], bool]:
    """Module path -> whether it is in a list of paths, of the ends of some, and of regular expressions after `re:` that
    their beginnings match."""
    entries = config.get(field) or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"{field}={entries} of compressed-tensors is not supported; supported: a list of modules")
    ends = tuple(f".{entry}" for entry in entries if not entry.startswith("re:"))
    try:
        expressions = [re.compile(entry.removeprefix("re:")) for entry in entries if entry.startswith("re:")]
    except re.error as error:
        raise ConfigError(f"{field}={entries} has what is no regular expression: {error}") from error
    return lambda path: f".{path}".endswith(ends) or any(expression.match(path) for expression in expressions)


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
    stated = {name: (activations or {}).get(name) for name in ("strategy", "group_size", "dynamic")}
    if stated != (supported := {"strategy": "group", "group_size": TILE, "dynamic": True}):
        raise ConfigError(f"float8 in blocks with input_activations {stated} is not supported; supported: {supported}")
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
