"""Which file computes which architecture. A model is a module with ARCHITECTURES, Config, read and build."""

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from lightllm.base.errors import ConfigError
from lightllm.base.task import base_architecture
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.models import text
from lightllm.compute.models.config_json import Json, value


@cache
def architectures() -> dict[str, ModuleType]:
    """Every architecture that can be computed, and its module."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.iter_modules(text.__path__, f"{text.__name__}.")
    ]
    return {name: module for module in modules for name in module.ARCHITECTURES}


def load_config(config_json: Json) -> tuple[ModuleType, Any]:
    """The module for a checkpoint's config.json, and its Config. Raises ConfigError naming what is not supported."""
    known = architectures()
    asked = value(config_json, "architectures", list[str], "every model", default=[])
    for name in map(base_architecture, asked):
        if name in known:
            return known[name], known[name].read({**config_json, "architectures": [name]})
    wanted = ", ".join(asked) or f"model_type {config_json.get('model_type')}"
    raise ConfigError(f"architecture {wanted} is not supported; supported: {', '.join(sorted(known))}")


def build(config: Any) -> CausalLM:
    """The skeleton of the model that a Config describes: sizes only, to be materialized."""
    return importlib.import_module(type(config).__module__).build(config)
