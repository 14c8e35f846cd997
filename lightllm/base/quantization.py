"""What a checkpoint says of its own quantization, in config.json or in a file that its quantizer writes instead; and
what can be said against it before anything is read."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightllm.base.checkpoint_files import read_json
from lightllm.base.errors import ConfigError

COMPRESSED_TENSORS = "compressed-tensors"
METHODS = ("fp8", "awq", "gptq", COMPRESSED_TENSORS)
INSTEAD = "take a checkpoint in another format, or the original one with --quant_type"
# The second as compressed-tensors called it at first.
FIELDS = ("quantization_config", "compression_config")
# Files of AutoGPTQ, AutoAWQ and ModelOpt, and the method of those that do not name it.
FILES = MappingProxyType(
    {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
)


def stated(directory: Path, config_json: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields, `quant_method` among them; None: the weights are floats. Raises ConfigError if they name no method.

    config.json counts before other files, which are often left beside it.
    """
    for field in FIELDS:
        if config_json.get(field):
            return _named(field, config_json[field])
    if config_json.get("quantization"):
        return {"quant_method": "mlx"}
    for file, method in FILES.items():
        if said := read_json(directory, file, required=False):
            return {"quant_method": method} | said
    return None


def why_not(said: Mapping[str, Any], *, quant_type: str, quant_cfg: str) -> str | None:
    """Why such a checkpoint cannot be read, as far as its method and what it is to be made of tell."""
    method = said.get("quant_method")
    if quant_type != "none" or quant_cfg:
        asked = f"--quant_cfg={quant_cfg}" if quant_cfg else f"--quant_type={quant_type}"
        return (
            f"{asked} is for weights that are not quantized; this checkpoint's are (quant_method {method}); leave it "
            "out, or take the original checkpoint"
        )
    if method not in METHODS:
        return f"quant_method {method} is not supported; supported: {', '.join(METHODS)}; {INSTEAD}"
    return None


def _named(field: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict) or not said.get("quant_method"):
        raise ConfigError(
            f"config.json has a {field} without quant_method, so nobody knows what its weights are; restore the file "
            "from the checkpoint's source, or take a checkpoint that names it"
        )
    return said
