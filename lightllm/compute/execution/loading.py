"""From a checkpoint's directory to a model on this rank's device."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.compute.execution.materialize import materialize
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.checkpoint import Safetensors
from lightllm.compute.weights.dummy import Dummy

Progress = Callable[[int, int], None]  # bytes done, bytes in all
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Loaded:
    """A materialized model. longest: tokens that one request may have."""

    model: CausalLM
    dtype: torch.dtype
    state_dtype: torch.dtype
    weight_bytes: int
    longest: int


def choose_device(config: EngineConfig, rank: int) -> torch.device:
    """The device of a rank; also limits the threads it computes with. Raises ConfigError if there is no such device."""
    devices = torch.cuda.device_count()
    kind = config.device
    if kind == "auto":
        kind = "cuda" if devices else "cpu"
    if kind == "cpu":
        # One core is left to the processes that feed this one: threads that wait for a core stall all the others.
        torch.set_num_threads(max((len(os.sched_getaffinity(0)) - 1) // config.tp, 1))
        return torch.device("cpu")
    if devices < config.tp:
        raise ConfigError(
            f"--device={config.device} --tp={config.tp} needs {config.tp} CUDA devices, torch finds {devices}; "
            "lower --tp, or use --device=cpu"
        )
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    return device


def load(config: EngineConfig, mesh: Mesh, device: torch.device, progress: Progress | None) -> Loaded:
    """Raises ConfigError if the checkpoint is not supported, does not fit its own config.json, or is too large."""
    directory = Path(config.model_dir)
    raw = read_json(directory, "config.json", required=True)
    model = registry.build(registry.load_config(raw)[1])
    longest = config.max_req_total_len or model.max_positions
    model.extend(longest)
    dtype = _dtype(config, raw, device)
    weight_bytes = materialize(
        model,
        Dummy(device) if config.load_format == "dummy" else Safetensors(directory),
        mesh=mesh,
        dtype=dtype,
        device=device,
        method_for=method_for(raw.get("quantization_config")),
        progress=progress,
        allow_reference=config.allow_reference_ops,
    )
    # Attention in half precision is several times slower than in float32 on a CPU.
    state_dtype = torch.float32 if device.type == "cpu" else dtype
    return Loaded(model.eval(), dtype, state_dtype, weight_bytes, longest)


def _dtype(config: EngineConfig, raw: dict[str, Any], device: torch.device) -> torch.dtype:
    if config.data_type != "auto":
        return DTYPES[config.data_type]
    if device.type == "cpu":
        return torch.float32
    stated = str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    if stated not in DTYPES:
        raise ConfigError(f"the checkpoint's dtype {stated} is not supported; set --data_type=bfloat16")
    return DTYPES[stated]
