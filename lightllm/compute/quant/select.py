"""Which method stores each matrix, as the checkpoint's own `quantization_config` says."""

from collections.abc import Callable, Mapping
from typing import Any

from lightllm.base.errors import ConfigError
from lightllm.compute.quant.awq import Awq
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.none import Unquantized


def method_for(quantization_config: Mapping[str, Any] | None) -> Callable[[str], LinearMethod]:
    """Module path in the checkpoint -> its method. None: nothing is quantized. Raises ConfigError by name.

    A path is left unquantized if an entry of `modules_to_not_convert` is one or several of its components.
    """
    plain = Unquantized()
    if quantization_config is None:
        return lambda path: plain
    kind = str(quantization_config.get("quant_method"))
    if kind not in _METHODS:
        raise ConfigError(f"quant_method {kind} is not supported; supported: {', '.join(_METHODS)}")
    method = _METHODS[kind](quantization_config)
    excluded = [f".{entry}." for entry in quantization_config.get("modules_to_not_convert") or ()]

    def choose(path: str) -> LinearMethod:
        return plain if any(entry in f".{path}." for entry in excluded) else method

    return choose


def _fp8(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, fmt="e4m3", activation_scheme="dynamic")
    match config.get("weight_block_size"):
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Fp8Block((rows, columns))
        case size:
            raise ConfigError(f"weight_block_size={size} is not supported by fp8; supported: [rows, columns]")


def _awq(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, bits=4, version="gemm", zero_point=True)
    match config.get("group_size"):
        case int(size) if size > 0:
            return Awq(size)
        case size:
            raise ConfigError(f"group_size={size} is not supported by awq; supported: any positive number")


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], LinearMethod]] = {"fp8": _fp8, "awq": _awq}


def _only(config: Mapping[str, Any], **supported: Any) -> None:
    """Raises ConfigError if a field that is stated is anything but this. Case does not matter."""
    for name, value in supported.items():
        stated = config.get(name, value)
        if str(stated).lower() != str(value).lower():
            raise ConfigError(f"{name}={stated} is not supported by {config['quant_method']}; supported: {value}")
