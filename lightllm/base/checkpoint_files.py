"""The small JSON files of a Hugging Face checkpoint that tell its limits and its eos tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightllm.base.errors import ConfigError


def read_json(model_dir: str | Path, name: str, *, required: bool) -> dict[str, Any]:
    """`name` of the checkpoint as a dict; {} if it is absent and not required. Raises ConfigError."""
    path = Path(model_dir) / name
    if not path.is_file():
        if required:
            raise ConfigError(
                f"--model_dir={model_dir}: no {name} there; give the directory of a Hugging Face checkpoint"
            )
        return {}
    content = _content(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not an object; restore the file")
    return content


def read_json_list(model_dir: str | Path, name: str) -> list[dict[str, Any]]:
    """`name` of the checkpoint as a list of objects; empty if it is absent. Raises ConfigError."""
    path = Path(model_dir) / name
    if not path.is_file():
        return []
    content = _content(path)
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise ConfigError(f"{path} holds no list of objects; restore the file")
    return content


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}; restore the file from the checkpoint's source") from None


def max_length(config: dict[str, Any]) -> int:
    """Longest sequence the checkpoint says it was made for, in tokens."""
    text = config.get("text_config", config)
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(text.get(name), int):
            return text[name]
    raise ConfigError("config.json does not state max_position_embeddings; set --max_req_total_len")


def vocab_size(config: dict[str, Any]) -> int:
    """How many token ids the model knows."""
    size = config.get("text_config", config).get("vocab_size")
    if not isinstance(size, int):
        raise ConfigError("config.json does not state vocab_size; restore the file from the checkpoint's source")
    return size


def token_ids(model_dir: str | Path, tokens: Sequence[str]) -> list[int]:
    """What tokenizer.json calls these tokens. Raises ConfigError naming one that is none."""
    file = read_json(model_dir, "tokenizer.json", required=True)
    vocabulary = (file.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):
        vocabulary = {token: at for at, (token, _) in enumerate(vocabulary)}
    known = vocabulary | {one["content"]: one["id"] for one in file.get("added_tokens") or ()}
    if lacking := [token for token in tokens if token not in known]:
        raise ConfigError(f"tokenizer.json in {model_dir} has no token {lacking[0]!r}")
    return [known[token] for token in tokens]


def eos_ids(config: dict[str, Any], generation_config: dict[str, Any]) -> list[int]:
    """Tokens that end an answer: generation_config.json's if it names any, else config.json's."""
    for source in (generation_config, config):
        ids = source.get("eos_token_id")
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [ids]
    return []
