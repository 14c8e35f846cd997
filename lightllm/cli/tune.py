"""`lightllm tune`: launch parameters for this GPU."""

from typing import Any

from lightllm.base.config import parse
from lightllm.bench.options import TuneOptions


def run(*, model: str, **flags: Any) -> int:
    """For a model's sizes; values of flags are text."""
    from lightllm.bench import tune

    return tune.run(parse(TuneOptions, flags), model)
