"""`lightllm bench`: measures servers, the engine and its kernels."""

from typing import Any

from lightllm.base.config import EngineConfig, parse
from lightllm.bench.options import LatencyOptions, OfflineOptions, OpsOptions, ServeOptions


def run(*, work: str, **flags: Any) -> int:
    """One of the benchmarks, by its name on the command line; values of flags are text."""
    return {"serve": _serve, "throughput": _throughput, "latency": _latency, "ops": _ops}[work](flags)


def _serve(flags: dict[str, Any]) -> int:
    from lightllm.bench import serve

    return serve.run(parse(ServeOptions, flags))


def _throughput(flags: dict[str, Any]) -> int:
    from lightllm.bench import offline

    engine = _take_engine(flags)
    return offline.throughput(parse(OfflineOptions, flags), engine)


def _latency(flags: dict[str, Any]) -> int:
    from lightllm.bench import offline

    engine = _take_engine(flags)
    return offline.latency(parse(LatencyOptions, flags), engine)


def _ops(flags: dict[str, Any]) -> int:
    from lightllm.bench import ops

    return ops.run(parse(OpsOptions, flags))


def _take_engine(flags: dict[str, Any]) -> dict[str, Any]:
    """The engine's flags, taken out of all."""
    model = flags.pop("model", "")
    engine = {name: flags.pop(name) for name in EngineConfig.__struct_fields__ if name in flags}
    return ({"model_dir": model} if model else {}) | engine
