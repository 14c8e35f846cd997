"""Which checkpoint to serve, and what a config that names it amounts to. Everything that can be refused early is."""

import re
from importlib.util import find_spec
from pathlib import Path

import msgspec

from lightllm.base import checkpoint_files, log, quantization
from lightllm.base.config import ServerConfig, kv_type_of
from lightllm.base.errors import ConfigError
from lightllm.base.task import Task
from lightllm.serving.parsing.choice import choose

_FILES = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
_OTHER_WEIGHTS = (".bin", ".gguf", ".pt", ".pth")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def resolve(config: ServerConfig) -> ServerConfig:
    """`config` with the checkpoint's directory, the model's name and the length limit filled in. Raises ConfigError."""
    directory, default_name = _locate(config.model_dir)
    checkpoint = checkpoint_files.read_json(directory, "config.json", required=True)
    checkpoint_files.read_json(directory, "generation_config.json", required=False)
    if config.load_format != "dummy" and not any(directory.glob("*.safetensors")):
        others = [ending for ending in _OTHER_WEIGHTS if any(directory.glob(f"*{ending}"))]
        only = f", only {' and '.join(others)}, which are not read" if others else ""
        raise ConfigError(
            f"--model_dir={directory}: no *.safetensors there{only}; give a checkpoint that has its weights in these"
        )
    config = msgspec.structs.replace(
        config,
        model_dir=str(directory),
        model_name=config.model_name or default_name,
        max_req_total_len=_length(config, checkpoint),
    )
    choose(config)
    _check_formats(config, checkpoint)
    _check_packages(config)
    # A vector made of all hidden states needs them all computed for it.
    if Task.of(config).pooling != "last":
        config = msgspec.structs.replace(config, disable_dynamic_prompt_cache=True)
    return config


def _check_formats(config: ServerConfig, checkpoint: dict) -> None:
    """Raises ConfigError for weights, or keys and values, that are to be kept in what there is not."""
    kv_type_of(config)
    stated = quantization.stated(Path(config.model_dir), checkpoint)
    asked = {"quant_type": config.quant_type, "quant_cfg": config.quant_cfg}
    if stated is not None and (reason := quantization.why_not(stated, **asked)):
        raise ConfigError(reason)
    if config.quant_cfg and not Path(config.quant_cfg).is_file():
        raise ConfigError(f"--quant_cfg={config.quant_cfg}: no such file; give one as in docs/quantization.md")


def _check_packages(config: ServerConfig) -> None:
    """Raises ConfigError if one is missing that a process would load later."""
    if config.output_constraint_mode == "xgrammar" and find_spec("xgrammar") is None:
        raise ConfigError(
            "--output_constraint_mode=xgrammar needs the package xgrammar; install it with `pip install "
            "'lightllm[xgrammar]'`, or use llguidance"
        )


def _length(config: ServerConfig, checkpoint: dict) -> int:
    given = config.max_req_total_len
    if given is None:
        return checkpoint_files.max_length(checkpoint)
    if "max_position_embeddings" in checkpoint and given > checkpoint_files.max_length(checkpoint):
        log.get(__name__).warning(
            "--max_req_total_len=%d is longer than the %d tokens the checkpoint was made for",
            given,
            checkpoint_files.max_length(checkpoint),
        )
    return given


def _locate(model: str) -> tuple[Path, str]:
    """The checkpoint's directory and the name it is served under by default."""
    if not model:
        from lightllm.demo import MODEL_DIR

        return MODEL_DIR, "lightllm-demo"
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if path.exists() or not _HUB_NAME.fullmatch(model):
        raise ConfigError(f"--model_dir={model}: no such directory; give a checkpoint's directory or a hub name")
    return _download(model), model


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            f"--model_dir={name}: no such directory; to load it from the hub, `pip install huggingface_hub`"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # whatever network, disk and hub come up with
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--model_dir={name}: no such directory, and the hub does not give it: {reason}") from error
