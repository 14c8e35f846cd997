"""Reading a checkpoint's config.json strictly: every field that a model computes with is named, typed and checked.

A model's Config is a dataclass with fields named as in config.json. One without a default must be there; one whose
type is a Literal admits nothing else, so that what a checkpoint asks for and a model lacks is refused by name.
"""

import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

import msgspec

from lightllm.base.errors import ConfigError
from lightllm.compute.layers.rope import SCALINGS, RopeConfig

C = TypeVar("C")
Json = Mapping[str, Any]

# What may stand beside the fields of a kind of scaling without changing it.
_BESIDE_SCALING = {
    "type",
    "rope_type",
    "rope_theta",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "max_position_embeddings",
    "finetuned",
}


def read(config: type[C], raw: Json, *, model: str, **derived: Any) -> C:
    """A `config` from `derived` and, for its other fields, from config.json. Raises ConfigError naming the field."""
    hints = typing.get_type_hints(config)
    values = dict(derived)
    for field in fields(config):  # pyright: ignore[reportArgumentType]
        if field.name in derived:
            continue
        value = raw.get(field.name)
        if value is None and field.default is not MISSING:
            continue
        if field.name not in raw:
            raise ConfigError(f"config.json lacks {field.name}, which {model} needs")
        values[field.name] = _checked(field, value, hints[field.name], model)
    return config(**values)


def heads(raw: Json) -> dict[str, int]:
    """num_key_value_heads and head_dim, which older checkpoints leave to be derived."""
    query_heads = required(raw, "num_attention_heads")
    return {
        "num_key_value_heads": raw.get("num_key_value_heads") or query_heads,
        "head_dim": raw.get("head_dim") or required(raw, "hidden_size") // query_heads,
    }


def windows(raw: Json) -> tuple[int | None, ...]:
    """Each layer's window, None where it sees everything: by `layer_types`, else from `max_window_layers` on."""
    layers = required(raw, "num_hidden_layers")
    if not raw.get("use_sliding_window") or raw.get("sliding_window") is None:
        return (None,) * layers
    first = raw.get("max_window_layers", 0)
    kinds = raw.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (layers - first)
    return tuple(raw["sliding_window"] if kind == "sliding_attention" else None for kind in kinds[:layers])


def rope(raw: Json, *, model: str) -> RopeConfig:
    """From `rope_parameters`, or from the older `rope_theta` and `rope_scaling`."""
    stated = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = stated.get("rope_type") or stated.get("type") or "default"
    if kind not in SCALINGS:
        supported = ", ".join(name for name in SCALINGS if name != "default")
        raise ConfigError(f"rope_scaling type {kind} is not supported by {model}; supported: {supported}")
    partial = stated.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise ConfigError(f"partial_rotary_factor={partial} is not supported by {model}; supported: 1.0")
    trained = required(raw, "max_position_embeddings")
    known = {field.name for field in fields(SCALINGS[kind])}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(stated) - known - _BESIDE_SCALING):
        raise ConfigError(f"rope_scaling field {unknown[0]} is not supported by {model} with type {kind}")
    lengths = {"max_position_embeddings": trained, "original_max_position_embeddings": trained}
    scaling = read(SCALINGS[kind], lengths | stated, model=f"rope_scaling type {kind}")
    theta = stated.get("rope_theta") or raw.get("rope_theta") or 10_000.0
    return RopeConfig(float(theta), scaling, scaling.longest(trained))


def required(raw: Json, name: str) -> Any:
    """A field that others are derived from."""
    if raw.get(name) is None:
        raise ConfigError(f"config.json lacks {name}")
    return raw[name]


def _checked(field: Field[Any], value: Any, hint: Any, model: str) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        allowed = ", ".join(map(str, typing.get_args(hint))) if typing.get_origin(hint) is typing.Literal else error
        raise ConfigError(f"{field.name}={value} is not supported by {model}; supported: {allowed}") from error
