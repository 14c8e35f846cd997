"""What a checkpoint is for: to generate text, or to give a vector for each prompt. Read from its JSON files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lightllm.base.checkpoint_files import read_json, read_json_list, token_ids, vocab_size
from lightllm.base.config import EngineConfig, Pooling
from lightllm.base.errors import ConfigError

Kind = Literal["generate", "embed", "classify", "reward"]
Activation = Literal["Sigmoid", "Identity", "Tanh"]
# In this order: a name may end with two of them.
_BY_ENDING: dict[str, Kind] = {"ForSequenceClassification": "classify", "ForRewardModel": "reward", "Model": "embed"}
_NO_AND_YES = ["no", "yes"]
_EMBEDDING_MODULES = {"Transformer", "Pooling", "Normalize"}
_POOLINGS: dict[str, Pooling] = {"lasttoken": "last", "mean": "mean", "cls": "cls"}  # sentence-transformers' names
_OLDER_NAME = re.compile(r"pooling_mode_(\w+?)(_tokens?)?$")


@dataclass(frozen=True)
class Task:
    """`width`: numbers of a prompt's vector; 0 for a model that generates.

    Of embedding models: normalizes: their vectors have length 1; pooling: what of a prompt's hidden states they are;
    widths: how many of their first numbers may be asked for.
    last_token: what every prompt has to end with, and is given at its end if it does not. answers: of a classifier
    without a head of its own, the token that means yes and, if there is one, the token that means no. activation: what
    a classifier's only label becomes when it is to say how well texts match.
    """

    kind: Kind = "generate"
    width: int = 0
    normalizes: bool = False
    pooling: Pooling = "last"
    widths: Sequence[int] = ()
    last_token: int | None = None
    answers: tuple[int, ...] = ()
    activation: Activation = "Sigmoid"

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
        if raw.get("is_causal") is False or raw.get("use_bidirectional_attention"):
            raise ConfigError("attention to later tokens (is_causal=false) is not supported; tokens see earlier ones")
        kind = config.task if config.task != "auto" else _stated(raw, modules)
        if kind != "embed" and (config.pooling != "auto" or config.is_matryoshka):
            raise ConfigError(
                "--pooling and --is_matryoshka are for embedding models; to serve this one as such add --task=embed"
            )
        match kind:
            case "embed":
                return cls._embed(config, raw, modules)
            case "rerank":
                return cls("classify", 1, answers=_answers(config, raw, modules), activation=_activation(config, raw))
            case "classify":
                return cls("classify", _num_labels(raw), activation=_activation(config, raw))
            case "reward":
                token = raw.get("reward_token_id")
                return cls("reward", 1, last_token=None if token is None else _token(raw, "reward_token_id", token))
            case _:
                return cls()

    @classmethod
    def _embed(cls, config: EngineConfig, raw: dict[str, Any], modules: dict[str, str]) -> "Task":
        if unknown := sorted(modules.keys() - _EMBEDDING_MODULES):
            raise ConfigError(
                f"{unknown[0]} in modules.json is not supported; supported: {', '.join(sorted(_EMBEDDING_MODULES))}"
            )
        return cls(
            "embed",
            width := int(raw["hidden_size"]),
            normalizes="Normalize" in modules or "Pooling" not in modules,
            pooling=_pooling(config, modules),
            widths=_widths(config, raw, width),
        )


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


def _activation(config: EngineConfig, raw: dict[str, Any]) -> Activation:
    """As sentence-transformers' files say, of which there are three kinds by age, or else the sigmoid."""
    newest = read_json(config.model_dir, "config_sentence_transformers.json", required=False).get("activation_fn")
    newer = (raw.get("sentence_transformers") or {}).get("activation_fn")
    stated = str(newest or newer or raw.get("sbert_ce_default_activation_function") or "Sigmoid")
    if (name := stated.rpartition(".")[2]) not in get_args(Activation):
        raise ConfigError(f"activation_fn={stated} is not supported; supported: {', '.join(get_args(Activation))}")
    return name  # type: ignore[return-value]


def _token(raw: dict[str, Any], name: str, token: Any) -> int:
    """A token id that a file gives under this name. Raises ConfigError if it is none."""
    if token not in range(vocab_size(raw)):
        raise ConfigError(f"{name}={token} of the checkpoint is no token; there are {vocab_size(raw)}")
    return token


def _num_labels(raw: dict[str, Any]) -> int:
    # transformers writes names of labels, of which there are two unless the checkpoint says other.
    return int(raw.get("num_labels") or len(raw.get("id2label") or {}) or 2)


def _pooling(config: EngineConfig, modules: dict[str, str]) -> Pooling:
    """As --pooling says, or else sentence-transformers' files, or the last."""
    if config.pooling != "auto" or "Pooling" not in modules:
        return "last" if config.pooling == "auto" else config.pooling
    said = read_json(Path(config.model_dir) / modules["Pooling"], "config.json", required=True)
    older = [match[1] for name, value in said.items() if value is True and (match := _OLDER_NAME.match(name))]
    match said.get("pooling_mode", older):
        case str(mode) | [str(mode)] if mode in _POOLINGS:
            pooling = _POOLINGS[mode]
        case modes:
            raise ConfigError(f"pooling_mode={modes} is not supported; supported: {', '.join(_POOLINGS)}")
    if pooling != "last" and said.get("include_prompt") is False:
        raise ConfigError("include_prompt=false is not supported: of a text it is not known how much of it is a prompt")
    return pooling


def _widths(config: EngineConfig, raw: dict[str, Any], width: int) -> Sequence[int]:
    """How many numbers of an embedding may be asked for, as config.json or --is_matryoshka says."""
    if stated := raw.get("matryoshka_dimensions"):
        return sorted({width, *set(range(1, width)).intersection(stated)})
    return range(1, width + 1) if raw.get("is_matryoshka") or config.is_matryoshka else (width,)
