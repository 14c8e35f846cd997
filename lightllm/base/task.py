"""What a checkpoint is for: to generate text, or to give a vector for each prompt. Read from its JSON files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightllm.base.checkpoint_files import read_json, read_json_list, token_ids, vocab_size
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError

Kind = Literal["generate", "embed", "classify", "reward"]
_BY_ENDING: dict[str, Kind] = {"ForSequenceClassification": "classify", "ForRewardModel": "reward"}
_NO_AND_YES = ["no", "yes"]


@dataclass(frozen=True)
class Task:
    """`width`: numbers of a prompt's vector; 0 for a model that generates. normalizes: embeddings have length 1.

    last_token: what every prompt has to end with, and is given at its end if it does not. answers: of a classifier
    without a head of its own, the token that means yes and, if there is one, the token that means no.
    """

    kind: Kind = "generate"
    width: int = 0
    normalizes: bool = False
    last_token: int | None = None
    answers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """For people."""
        return {"generate": "generates text", "embed": "is an embedding model", "classify": "is a classifier",
                "reward": "is a reward model"}[self.kind]  # fmt: skip

    @classmethod
    def of(cls, config: EngineConfig) -> "Task":
        """What --task says, or else the checkpoint in --model_dir. Raises ConfigError for what is not supported."""
        raw = read_json(config.model_dir, "config.json", required=True)
        modules = _modules(config.model_dir)
        match config.task if config.task != "auto" else _stated(raw, modules):
            case "embed":
                return cls._embed(config, raw, modules)
            case "rerank":
                return cls("classify", 1, answers=_answers(config, raw, modules))
            case "classify":
                return cls("classify", _num_labels(raw))
            case "reward":
                token = raw.get("reward_token_id")
                return cls("reward", 1, last_token=None if token is None else _token(raw, "reward_token_id", token))
            case _:
                return cls()

    @classmethod
    def _embed(cls, config: EngineConfig, raw: dict[str, Any], modules: dict[str, str]) -> "Task":
        if "Pooling" not in modules:
            return cls("embed", int(raw["hidden_size"]), normalizes=True)
        _check_pooling(read_json(Path(config.model_dir) / modules["Pooling"], "config.json", required=True))
        return cls("embed", int(raw["hidden_size"]), normalizes="Normalize" in modules)


def base_architecture(name: str) -> str:
    """The architecture without its head: the one that generates."""
    for ending in _BY_ENDING:
        if name.endswith(ending):
            return name.removesuffix(ending) + "ForCausalLM"
    return name


def _modules(model_dir: str) -> dict[str, str]:
    """The parts of sentence-transformers' model, by the names of their classes, and the folders of their settings."""
    modules = read_json_list(model_dir, "modules.json")
    return {str(module.get("type")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}


def _stated(raw: dict[str, Any], modules: dict[str, str]) -> str:
    """What a checkpoint says that it is for."""
    if "LogitScore" in modules or raw.get("classifier_from_token"):
        return "rerank"
    for architecture in raw.get("architectures") or []:
        for ending, kind in _BY_ENDING.items():
            if architecture.endswith(ending):
                return kind
    return "embed" if "Pooling" in modules else "generate"


def _answers(config: EngineConfig, raw: dict[str, Any], modules: dict[str, str]) -> tuple[int, ...]:
    """The tokens that mean yes and no, as sentence-transformers' files, config.json or nobody says."""
    if "LogitScore" in modules:
        said = read_json(Path(config.model_dir) / modules["LogitScore"], "config.json", required=True)
        yes, no = _token(raw, "true_token_id", said.get("true_token_id")), said.get("false_token_id")
        return (yes,) if no is None else (yes, _token(raw, "false_token_id", no))
    names = raw.get("classifier_from_token") or _NO_AND_YES
    if not isinstance(names, list) or len(names) > len(_NO_AND_YES) or not all(isinstance(one, str) for one in names):
        raise ConfigError(f"classifier_from_token={names} is not supported; supported: [no, yes] or [yes]")
    return tuple(reversed(token_ids(config.model_dir, names)))


def _token(raw: dict[str, Any], name: str, token: Any) -> int:
    """A token id that a file gives under this name. Raises ConfigError if it is none."""
    if token not in range(vocab_size(raw)):
        raise ConfigError(f"{name}={token} of the checkpoint is no token; there are {vocab_size(raw)}")
    return token


def _num_labels(raw: dict[str, Any]) -> int:
    # transformers writes names of labels, of which there are two unless the checkpoint says other.
    return int(raw.get("num_labels") or len(raw.get("id2label") or {}) or 2)


def _check_pooling(pooling: dict[str, Any]) -> None:
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if modes != ["pooling_mode_lasttoken"]:
        raise ConfigError(
            f"{', '.join(modes) or 'no pooling_mode'} is not supported; supported: pooling_mode_lasttoken"
        )
