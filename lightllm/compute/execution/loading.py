"""From a checkpoint's directory to a model on this rank's device."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import EngineConfig, kv_type_of
from lightllm.base.errors import ConfigError
from lightllm.base.quantization import stated
from lightllm.base.task import Task
from lightllm.compute.execution.materialize import materialize
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.layers.heads import Answers, Embedding, Labels
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.select import method_for
from lightllm.compute.state.layer_state import Format
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
STATE_FORMATS = {
    "fp8": Format(torch.float8_e4m3fn, scaled=True),
    "int8": Format(torch.int8, scaled=True),
    "int4": Format(torch.uint8, packed=2, scaled=True),
}


@dataclass(frozen=True)
class Blueprint:
    """What is known of a model before its weights are. longest: tokens that one request may have."""

    directory: Path
    raw: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    longest: int
    quant_type: str = "none"
    quant_cfg: str = ""
    kv_type: str = "bf16"
    task: Task = Task()

    @property
    def state_format(self) -> Format:
        """How keys and values are kept."""
        if self.kv_type in STATE_FORMATS:
            return STATE_FORMATS[self.kv_type]
        # Attention in half precision is several times slower than in float32 on a CPU.
        return Format(torch.float32 if self.device.type == "cpu" else self.dtype)

    def build(self) -> CausalLM:
        """The model without tensors."""
        config = registry.load_config(self.raw)[1]
        model = registry.build(config)
        if (head := _head(self.task, model, config.hidden_size)) is not None:
            model.replace_head(head, pooling=self.task.pooling)
        model.extend(self.longest)
        return model

    def method_for(self) -> Callable[[str], LinearMethod]:
        """How each matrix is stored and multiplied."""
        return method_for(stated(self.directory, self.raw), quant_type=self.quant_type, quant_cfg=self.quant_cfg)


def _head(task: Task, model: CausalLM, hidden: int) -> nn.Module | None:
    """What makes the vectors that the task wants; None: the model generates."""
    match task.kind:
        case "embed":
            return Embedding(normalizes=task.normalizes)
        case "classify" if task.answers:
            return Answers(model.output_weight, model.vocab, hidden, task.answers)
        case "classify":
            return Labels(hidden, task.width)
        case "reward":
            return model.reward_head(hidden)
        case _:
            return None


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


def read_blueprint(config: EngineConfig, device: torch.device) -> Blueprint:
    """Raises ConfigError if the checkpoint's configuration is missing or not supported."""
    directory = Path(config.model_dir)
    raw = read_json(directory, "config.json", required=True)
    longest = config.max_req_total_len or registry.build(registry.load_config(raw)[1]).max_positions
    return Blueprint(
        directory,
        raw,
        device,
        _dtype(config, raw, device),
        longest,
        config.quant_type,
        config.quant_cfg,
        kv_type_of(config),
        Task.of(config),
    )


def load(
    blueprint: Blueprint, config: EngineConfig, mesh: Mesh, progress: Progress | None = None
) -> tuple[CausalLM, int]:
    """The model with its tensors, and their bytes. Raises ConfigError if the checkpoint does not fit its own
    config.json, or is too large."""
    model = blueprint.build()
    weight_bytes = materialize(
        model,
        Dummy(blueprint.device) if config.load_format == "dummy" else _stored(blueprint),
        mesh=mesh,
        dtype=blueprint.dtype,
        device=blueprint.device,
        method_for=blueprint.method_for(),
        progress=progress,
        allow_reference=config.allow_reference_ops,
    )
    return model.eval(), weight_bytes


def _stored(blueprint: Blueprint) -> Safetensors:
    """The checkpoint's tensors. Embedding models may be stored as a decoder alone, without the prefix of its names."""
    tensors = Safetensors(blueprint.directory)
    if blueprint.task.kind == "embed":
        tensors.put_under("model.")
    return tensors


def _dtype(config: EngineConfig, raw: dict[str, Any], device: torch.device) -> torch.dtype:
    if config.data_type != "auto":
        return DTYPES[config.data_type]
    if device.type == "cpu":
        return torch.float32
    name = str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"the checkpoint's dtype {name} is not supported; set --data_type=bfloat16")
    return DTYPES[name]
