"""Reading a checkpoint's config.json strictly: every field that a model computes with is named, typed and checked.

A model's Config is a dataclass with fields named as in config.json. One without a default must be there; one whose
type is a Literal admits nothing else, so that what a checkpoint asks for and a model lacks is refused by name.
"""

import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from lightllm.base.errors import ConfigError
from lightllm.compute.layers.rope import SCALINGS, RopeConfig

C = TypeVar("C")
Json: TypeAlias = Mapping[str, Any]
Positive: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]
LayerType: TypeAlias = Literal["full_attention", "sliding_attention"]

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
    hints = typing.get_type_hints(config, include_extras=True)
    others = [field for field in fields(config) if field.name not in derived]  # pyright: ignore[reportArgumentType]
    stated = {field.name: value(raw, field.name, hints[field.name], model, default=field.default) for field in others}
    return config(**derived, **stated)


def value(raw: Json, name: str, hint: Any, model: str, *, default: Any = MISSING) -> Any:
    """One field of config.json. Absent and null mean `default`; without one, null must be allowed by the type."""
    found = raw.get(name)
    if found is None and default is not MISSING:
        return default
    if name not in raw:
        raise ConfigError(f"config.json lacks {name}, which {model} needs")
    try:
        return msgspec.convert(found, hint)
    except msgspec.ValidationError as error:
        literal = typing.get_origin(hint) is typing.Literal
        reason = "supported: " + ", ".join(map(str, typing.get_args(hint))) if literal else str(error)
        raise ConfigError(f"{name}={found} is not supported by {model}; {reason}") from error


def heads(raw: Json, *, model: str) -> dict[str, int]:
    """num_key_value_heads and head_dim, which older checkpoints leave to be derived."""
    query_heads = value(raw, "num_attention_heads", Positive, model)
    kv_heads = value(raw, "num_key_value_heads", Positive, model, default=query_heads)
    if query_heads % kv_heads:
        raise ConfigError(f"num_attention_heads={query_heads} is no multiple of num_key_value_heads={kv_heads}")
    equal = value(raw, "hidden_size", Positive, model) // query_heads
    return {"num_key_value_heads": kv_heads, "head_dim": value(raw, "head_dim", Positive, model, default=equal)}


def windows(raw: Json, *, model: str) -> tuple[int | None, ...]:
    """Each layer's window, None where it sees everything: by `layer_types`, else from `max_window_layers` on."""
    layers = value(raw, "num_hidden_layers", Positive, model)
    window = value(raw, "sliding_window", Positive, model, default=None)
    if window is None or not value(raw, "use_sliding_window", bool, model, default=False):
        return (None,) * layers
    first = value(raw, "max_window_layers", int, model, default=0)
    later = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    kinds = value(raw, "layer_types", list[LayerType], model, default=later)
    if len(kinds) != layers:
        raise ConfigError(f"config.json has {len(kinds)} layer_types for {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def rope(raw: Json, *, model: str) -> RopeConfig:
    """From `rope_parameters`, or from the older `rope_theta` and `rope_scaling`."""
    older = value(raw, "rope_scaling", dict[str, Any], model, default={})
    stated = value(raw, "rope_parameters", dict[str, Any], model, default=older)
    kind = stated.get("rope_type") or stated.get("type") or "default"
    if kind not in SCALINGS:
        supported = ", ".join(name for name in SCALINGS if name != "default")
        raise ConfigError(f"rope_scaling type {kind} is not supported by {model}; supported: {supported}")
    everything = {**raw, **stated}
    if (partial := value(everything, "partial_rotary_factor", float, model, default=1.0)) != 1.0:
        raise ConfigError(f"partial_rotary_factor={partial} is not supported by {model}; supported: 1.0")
    known = {field.name for field in fields(SCALINGS[kind])}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(stated) - known - _BESIDE_SCALING):
        raise ConfigError(f"rope_scaling field {unknown[0]} is not supported by {model} with type {kind}")
    trained = value(raw, "max_position_embeddings", Positive, model)
    lengths = {"max_position_embeddings": trained, "original_max_position_embeddings": trained}
    scaling = read(SCALINGS[kind], lengths | stated, model=f"rope_scaling type {kind}")
    theta = value(everything, "rope_theta", float, model, default=10_000.0)
    return RopeConfig(theta, scaling, scaling.longest(trained))
