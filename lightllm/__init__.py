"""LightLLM: an inference and serving engine for large language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightllm.base.request import SamplingParams
    from lightllm.llm import LLM

__version__ = "2.0.0.dev0"
__all__ = ["LLM", "SamplingParams", "__version__"]
# Imported when first used, so that `import lightllm` and the command line start at once.
_HOMES = {"LLM": "lightllm.llm", "SamplingParams": "lightllm.base.request"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
