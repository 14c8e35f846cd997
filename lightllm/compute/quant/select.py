"""Which method stores each matrix, as the checkpoint's own config says."""

from collections.abc import Callable, Mapping
from typing import Any

from lightllm.base.errors import ConfigError
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.none import Unquantized


def method_for(quantization_config: Mapping[str, Any] | None) -> Callable[[str], LinearMethod]:
    """Path in the checkpoint -> method. None: a checkpoint that is not quantized. Raises ConfigError by name."""
    plain = Unquantized()
    if quantization_config is None:
        return lambda path: plain
    raise ConfigError(f"quant_method {quantization_config.get('quant_method')} is not supported")
