"""Every setting, once. Flags, the offline API's keywords and the documentation are generated from these structs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec

from lightllm.base import env
from lightllm.base.errors import ConfigError

Config = TypeVar("Config", bound="EngineConfig")


def _about(description: str, **limits: Any) -> msgspec.Meta:
    return msgspec.Meta(description=description, **limits)


Positive = msgspec.Meta(ge=1)
DataType = Literal["auto", "float32", "fp32", "bfloat16", "bf16", "float16", "fp16"]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine needs, with or without an HTTP server in front."""

    model_dir: Annotated[str, _about("Checkpoint directory in Hugging Face layout; the bundled model if not given")] = ""
    model_name: Annotated[str, _about("Name the model is served under; the directory's name if not given")] = ""
    tokenizer_mode: Annotated[
        Literal["auto", "fast", "none"], _about("none: token ids in and out, no tokenizer is loaded")
    ] = "auto"
    chat_template: Annotated[str, _about("File with a Jinja chat template, instead of the checkpoint's own")] = ""
    eos_id: Annotated[list[int], _about("Token ids that end an answer, instead of the checkpoint's own")] = []
    load_format: Annotated[Literal["auto", "dummy"], _about("dummy: random weights of the right shapes")] = "auto"
    data_type: Annotated[
        DataType, _about("Type of activations and weights; auto: float32 on a CPU, else the checkpoint's")
    ] = "auto"
    trust_remote_code: Annotated[bool, _about("Accepted for compatibility: code in a checkpoint is never run")] = False

    device: Annotated[Literal["auto", "cpu", "cuda"], _about("Where the model runs")] = "auto"
    tp: Annotated[int, Positive, _about("Tensor parallel ranks; each is a process with a device of its own")] = 1

    mem_fraction: Annotated[float, _about("Share of the device's memory the engine may use in all", gt=0, lt=1)] = 0.9
    max_total_token_num: Annotated[int, Positive, _about("Slots of the KV pool, in tokens; measured if not given")] | None = None
    max_req_total_len: Annotated[int, Positive, _about("Longest prompt plus output; the checkpoint's limit if not given")] | None = None

    batch_max_tokens: Annotated[int, Positive, _about("Most tokens one step runs")] = 8192
    chunked_prefill_size: Annotated[int, Positive, _about("Most prompt tokens of one request in one step; batch_max_tokens if not given")] | None = None
    running_max_req_size: Annotated[int, Positive, _about("Most requests running at a time")] = 1000
    max_queued_requests: Annotated[int, _about("Requests allowed to wait; one more is refused with 429", ge=0)] = 4096
    disable_dynamic_prompt_cache: Annotated[bool, _about("Do not share KV between requests with a common prefix")] = False
    admission: Annotated[
        Literal["conservative", "watermark"],
        _about("conservative: admit while the predicted peak fits the pool; watermark: while its use is below --watermark"),
    ] = "conservative"
    watermark: Annotated[float, _about("Share of the pool in use up to which the watermark policy admits", gt=0, le=1)] = 0.95
    router_max_new_token_len: Annotated[
        int, Positive, _about("Output tokens the scheduler expects of a request that sets no maximum")
    ] = 2048

    on_failure: Annotated[
        Literal["exit", "restart"], _about("When scheduler, worker or detokenizer dies: end the server or restart the engine")
    ] = "exit"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _about("Least severe messages shown")] = env.LOG_LEVEL  # type: ignore[assignment]
    disable_log_stats: Annotated[bool, _about("Do not log throughput and memory use")] = False
    log_stats_interval: Annotated[float, _about("Seconds between two lines of statistics", gt=0)] = 10.0


class ServerConfig(EngineConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine's settings and those of the HTTP server."""

    host: Annotated[str, _about("Address to listen on")] = "127.0.0.1"
    port: Annotated[int, _about("Port to listen on; 0 picks a free one", ge=0, le=65535)] = 8000
    httpserver_workers: Annotated[int, _about("API processes that share the port", ge=1, le=64)] = 1
    max_request_bytes: Annotated[int, Positive, _about("Largest request body; a larger one is refused with 413")] = 32 << 20
    graceful_timeout_s: Annotated[float, _about("After SIGTERM, seconds that open requests have to finish", ge=0)] = 60.0


def parse(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """A config from keyword values; text is read as a flag would be. Raises ConfigError naming the flag."""
    hints = get_type_hints(kind, include_extras=True)
    cleaned = {name.replace("-", "_"): value for name, value in values.items()}
    if unknown := sorted(set(cleaned) - set(hints)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; allowed: {', '.join(hints)}")
    for name, value in cleaned.items():
        try:
            cleaned[name] = msgspec.convert(value, hints[name], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"--{name}={value}: {error}") from None
    return kind(**cleaned)
