"""Which method stores each matrix: as the checkpoint's own `quantization_config` says, or as it is asked for."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightllm.base.errors import ConfigError
from lightllm.compute.quant import compressed_tensors, made
from lightllm.compute.quant.awq import Awq
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.gptq import Gptq
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.quant.per_channel import PerChannel

HEAD = "lm_head"
HEADS = (HEAD, "output")  # what output heads are called
COMPRESSED_TENSORS = "compressed-tensors"


def method_for(
    quantization_config: Mapping[str, Any] | None, *, quant_type: str = "none", quant_cfg: str = ""
) -> Callable[[str], LinearMethod]:
    """Module path in the checkpoint -> its method. None: nothing is quantized yet. Raises ConfigError by name.

    A path is left unquantized if an entry of `modules_to_not_convert` is one or several of its components. The output
    head is, unless the format is one that says otherwise. quant_type, quant_cfg: what to make of unquantized weights.
    """
    if quantization_config is None:
        return made.methods(quant_type, quant_cfg)
    made.reject_both(quant_type, quant_cfg, quantization_config)
    plain, kind = Unquantized(), str(quantization_config.get("quant_method"))
    if kind == COMPRESSED_TENSORS:
        return compressed_tensors.methods(quantization_config, plain)
    if kind not in _METHODS:
        raise ConfigError(
            f"quant_method {kind} is not supported; supported: {', '.join([*_METHODS, COMPRESSED_TENSORS])}"
        )
    method = _METHODS[kind](quantization_config)
    heads = [] if quantization_config.get(HEAD) is True else HEADS
    excluded = [f".{entry}." for entry in [*(quantization_config.get("modules_to_not_convert") or ()), *heads]]

    def choose(path: str) -> LinearMethod:
        return plain if any(entry in f".{path}." for entry in excluded) else method

    return choose


def _fp8(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, fmt="e4m3", activation_scheme="dynamic")
    match config.get("weight_block_size"):
        case None:
            return PerChannel("fp8", torch.float8_e4m3fn, True, "tensor")
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Fp8Block((rows, columns))
        case size:
            raise ConfigError(f"weight_block_size={size} is not supported by fp8; supported: [rows, columns] or none")


def _awq(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, bits=4, version="gemm", zero_point=True)
    return Awq(_group_size(config))


def _gptq(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, bits=4, is_marlin_format=False)
    match str(config.get("checkpoint_format", "gptq")):
        case "gptq":
            less = 1
        case "gptq_v2":
            less = 0
        case form:
            raise ConfigError(f"checkpoint_format={form} is not supported by gptq; supported: gptq, gptq_v2")
    if config.get("dynamic"):
        raise ConfigError("dynamic (settings of single modules) is not supported by gptq; supported: none")
    return Gptq(_group_size(config), order=bool(config.get("desc_act", False)), zero_less=less)


def _group_size(config: Mapping[str, Any]) -> int:
    """0 for groups as long as the matrix is wide."""
    match config.get("group_size"):
        case int(size) if size > 0:
            return size
        case -1:
            return 0
        case size:
            method = config["quant_method"]
            raise ConfigError(f"group_size={size} is not supported by {method}; supported: any positive number, -1")


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], LinearMethod]] = {"fp8": _fp8, "awq": _awq, "gptq": _gptq}


def _only(config: Mapping[str, Any], **supported: Any) -> None:
    """Raises ConfigError if a field that is stated is anything but this. Case does not matter."""
    for name, value in supported.items():
        stated = config.get(name, value)
        if str(stated).lower() != str(value).lower():
            raise ConfigError(f"{name}={stated} is not supported by {config['quant_method']}; supported: {value}")
