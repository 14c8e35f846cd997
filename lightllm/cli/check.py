"""`lightllm check`: what is installed, what devices there are, and what would compute each op on them and why."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lightllm import __version__
from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import Device, ServerConfig
from lightllm.base.task import Task
from lightllm.processes.supervision.checkpoint import resolve
from lightllm.serving.parsing.choice import choose

_PACKAGES = ("torch", "triton", "numpy", "tokenizers", "safetensors", "msgspec", "fastapi", "uvicorn", "uvloop")


def run(*, model: str, device: Device) -> int:
    """Prints what there is. Raises ConfigError for a model or a device that cannot be used."""
    _show_environment()
    _show_devices()
    config, checkpoint = ServerConfig(model_dir=model, device=device, load_format="dummy"), {}
    if model:
        config = resolve(config)
        checkpoint = read_json(config.model_dir, "config.json", required=True)
        _show_model(config, checkpoint)
    _show_ops(config, checkpoint)
    return 0


def _show_environment() -> None:
    _title("environment")
    _row("lightllm", __version__)
    _row("python", f"{platform.python_version()} ({sys.executable})")
    _row("system", platform.platform())
    for package in _PACKAGES:
        try:
            _row(package, version(package))
        except PackageNotFoundError:
            _row(package, "not installed")


def _show_devices() -> None:
    import torch

    _title("devices")
    _row("cpu", f"{len(os.sched_getaffinity(0))} cores, torch uses {torch.get_num_threads()} threads")
    if not torch.cuda.is_available():
        _row("cuda", "none")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        _row(f"cuda:{index}", f"{about.name}, {about.total_memory >> 20} MiB, sm_{about.major}{about.minor}")


def _show_model(config: ServerConfig, checkpoint: dict[str, Any]) -> None:
    from lightllm.base.quantization import stated
    from lightllm.compute.models.registry import load_config
    from lightllm.compute.quant.select import method_for

    module, _ = load_config(checkpoint)
    quantization = stated(Path(config.model_dir), checkpoint)
    method_for(quantization, quant_type=config.quant_type, quant_cfg=config.quant_cfg)
    _title(config.model_name)
    _row("directory", config.model_dir)
    _row("architecture", f"{', '.join(checkpoint['architectures'])}, computed by {module.__name__}")
    _row("task", Task.of(config).name)
    _row("quantization", quantization["quant_method"] if quantization else config.quant_cfg or config.quant_type)
    _row("longest request", f"{config.max_req_total_len} tokens")
    for what, choice in choose(config).report().items():
        _row(what, choice)


def _show_ops(config: ServerConfig, checkpoint: dict[str, Any]) -> None:
    import lightllm.compute.ops  # noqa: F401  # declares them
    from lightllm.compute import kernels
    from lightllm.compute.execution.loading import DTYPES, choose_device
    from lightllm.compute.kernels.triton import tuned
    from lightllm.compute.ops.op import Facts

    device = choose_device(config, 0)
    stated = str(checkpoint.get("dtype") or checkpoint.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    dtype = DTYPES["float32" if device.type == "cpu" else stated]
    _title(f"ops on {device}, {str(dtype).removeprefix('torch.')}")
    if device.type == "cuda":
        _row("launch parameters", tuned.describe(device))
    for choice in kernels.load_all(Facts(device, dtype)):
        _row(choice.op, choice.implementation)
        for other, reason in choice.reasons.items():
            _row("", f"not {other}: {reason}")


def _title(text: str) -> None:
    print(f"\n{text}")


def _row(name: str, text: str) -> None:
    print(f"  {name:<26} {text}")
