"""What a checkpoint is for: to generate text, or to give a vector for each prompt. Read from its JSON files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightllm.base.checkpoint_files import read_json, read_json_list, vocab_size
from lightllm.base.errors import ConfigError

Kind = Literal["generate", "embed", "classify", "reward"]
_BY_ENDING: dict[str, Kind] = {"ForSequenceClassification": "classify", "ForRewardModel": "reward"}
_POOLING, _NORMALIZE = "sentence_transformers.models.Pooling", "sentence_transformers.models.Normalize"


@dataclass(frozen=True)
class Task:
    """`width`: numbers of a prompt's vector; 0 for a model that generates. normalizes: embeddings have length 1.

    last_token: what every prompt has to end with, and is given at its end if it does not.
    """

    kind: Kind = "generate"
    width: int = 0
    normalizes: bool = False
    last_token: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return {"generate": "generates text", "embed": "is an embedding model", "classify": "is a classifier",
                "reward": "is a reward model"}[self.kind]  # fmt: skip

    @classmethod
    def of(cls, model_dir: str | Path) -> "Task":
        """Raises ConfigError for a way of pooling that is not supported."""
        raw = read_json(model_dir, "config.json", required=True)
        for architecture in raw.get("architectures") or []:
            for ending, kind in _BY_ENDING.items():
                if architecture.endswith(ending):
                    return cls._reward(raw) if kind == "reward" else cls(kind, _num_labels(raw))
        modules = read_json_list(model_dir, "modules.json")
        kinds = {str(module.get("type")): str(module.get("path", "")) for module in modules}
        if _POOLING not in kinds:
            return cls()
        _check_pooling(read_json(Path(model_dir) / kinds[_POOLING], "config.json", required=True))
        return cls("embed", int(raw["hidden_size"]), normalizes=_NORMALIZE in kinds)

    @classmethod
    def _reward(cls, raw: dict[str, Any]) -> "Task":
        token = raw.get("reward_token_id")
        if token is not None and token not in range(vocab_size(raw)):
            raise ConfigError(f"reward_token_id={token} of config.json is no token; there are {vocab_size(raw)}")
        return cls("reward", 1, last_token=token)


def base_architecture(name: str) -> str:
    """The architecture without its head: the one that generates."""
    for ending in _BY_ENDING:
        if name.endswith(ending):
            return name.removesuffix(ending) + "ForCausalLM"
    return name


def _num_labels(raw: dict[str, Any]) -> int:
    # transformers writes names of labels, of which there are two unless the checkpoint says other.
    return int(raw.get("num_labels") or len(raw.get("id2label") or {}) or 2)


def _check_pooling(pooling: dict[str, Any]) -> None:
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if modes != ["pooling_mode_lasttoken"]:
        raise ConfigError(
            f"{', '.join(modes) or 'no pooling_mode'} is not supported; supported: pooling_mode_lasttoken"
        )
