"""`lightllm bench`: measures servers, the engine and its kernels."""

from typing import Any

from lightllm.base.config import parse
from lightllm.bench.options import ServeOptions


def run(*, work: str, **flags: Any) -> int:
    """One of the benchmarks, by its name on the command line; values of flags are text."""
    return {"serve": _serve}[work](flags)


def _serve(flags: dict[str, Any]) -> int:
    from lightllm.bench import serve

    return serve.run(parse(ServeOptions, flags))
