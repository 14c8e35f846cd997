"""Policies by the text that names them: `watermark:watermark=0.9,batch_max_tokens=2048`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightllm.base.config import EngineConfig, parse
from lightllm.base.errors import ConfigError
from lightllm.simulation.trace import Trace

ORACLE = "oracle"


@dataclass(frozen=True)
class Policy:
    """How the server is configured. The oracle is told in advance how long each output will be."""

    name: str
    config: EngineConfig
    knows_lengths: bool

    def told(self, trace: Trace) -> Trace:
        """The trace as this policy sees it: with exact lengths stated, the conservative policy predicts exactly."""
        return replace(trace, max_tokens=trace.output) if self.knows_lengths else trace


def policy(text: str, settings: Sequence[str], *, scale: int) -> Policy:
    """The policy that `text` names, with `settings` NAME=VALUE that hold for all policies. Raises ConfigError.

    Settings that count tokens are divided by `scale`, as the trace is.
    """
    name, _, own = text.partition(":")
    knows_lengths = name == ORACLE
    values: dict[str, object] = {"admission": "conservative" if knows_lengths else name}
    for setting in [*settings, *(own.split(",") if own else [])]:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"setting {setting!r} has no value; write NAME=VALUE")
        values[key] = value
    config = parse(EngineConfig, {"running_max_req_size": 256} | values)
    return Policy(text, _scaled(config, scale), knows_lengths)


def _scaled(config: EngineConfig, scale: int) -> EngineConfig:
    values = {name: getattr(config, name) for name in EngineConfig.__struct_fields__}
    for name in ("batch_max_tokens", "chunked_prefill_size", "router_max_new_token_len", "max_queued_tokens"):
        if values[name] is not None:
            values[name] = max(1, values[name] // scale)
    return EngineConfig(**values)
