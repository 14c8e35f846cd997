"""Every setting, once. Flags, the offline API's keywords and the documentation are generated from these structs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from lightllm.base import env
from lightllm.base.errors import ConfigError
from lightllm.base.request import LongTruncation

A = Annotated
Config = TypeVar("Config", bound=msgspec.Struct)


def about(description: str) -> msgspec.Meta:
    """The help text of a setting."""
    return msgspec.Meta(description=description)


def at_least(least: float) -> msgspec.Meta:
    return msgspec.Meta(ge=least)


def above(bound: float, *, below: float = 1e12) -> msgspec.Meta:
    return msgspec.Meta(gt=bound, lt=below)


Count = A[int, at_least(1)]
PositiveSeconds = A[float, above(0)]
DataType = Literal["auto", "float32", "fp32", "bfloat16", "bf16", "float16", "fp16"]
OutputConstraint = Literal["llguidance", "xgrammar", "none"]
Tokenizer = Literal["auto", "fast", "none"]
LoadFormat = Literal["auto", "dummy"]
QuantType = Literal[
    "none",
    "w8a8",
    "vllm-w8a8",
    "ao-w8a8",
    "ao-w8a16",
    "ao-int8wo",
    "fp8w8a8",
    "vllm-fp8w8a8",
    "ao-fp8w8a16",
    "fp8w8a8-b128",
    "vllm-fp8w8a8-b128",
    "triton-fp8w8a8-block128",
    "deepgemm-fp8w8a8-b128",
    "ao-fp6w6a16",
    "flashllm-w6a16",
    "ao-w4a16-256",
    "ao-w4a16-128",
    "ao-w4a16-64",
    "ao-w4a16-32",
    "ao-int4wo-256",
    "ao-int4wo-128",
    "ao-int4wo-64",
    "ao-int4wo-32",
    "ppl-w4a16-128",
]
KvType = Literal["bf16", "fp8", "int8", "int4"]
# The seed system's --mode: what it keeps keys and values in, or how it computes attention, which is ours to choose.
MODES: Mapping[str, KvType | None] = MappingProxyType(
    {
        "triton_int8kv": "int8",
        "ppl_int8kv": "int8",
        "ppl_int8kv_flashdecoding": "int8",
        "ppl_int4kv_flashdecoding": "int4",
        "triton_fp8kv": "fp8",
        "ppl_fp16": None,
        "ppl_fp16_flashdecoding": None,
        "triton_flashdecoding": None,
        "triton_gqa_attention": None,
        "triton_gqa_flashdecoding": None,
        "triton_gqa_flashdecoding_vsm": None,
    }
)
AskedTask = Literal["auto", "generate", "embed", "rerank"]
Pooling = Literal["last", "mean", "cls"]
AskedPooling = Literal["auto", "last", "mean", "cls"]
Device = Literal["auto", "cpu", "cuda"]
Admission = Literal["past_future", "conservative", "watermark"]
Preemption = Literal["cheapest", "latest"]
SchedulePolicy = Literal["fcfs", "priority", "shortest_predicted", "longest_prefix", "fair_share"]
OnFailure = Literal["exit", "restart"]
FairShareBy = Literal["user", "api_key"]
LogLevel = Literal["debug", "info", "warning", "error"]
AccessLog = Literal["off", "text", "json"]
QUANT_TYPES: tuple[str, ...] = get_args(QuantType)
SECRETS = frozenset({"api_key"})  # settings whose values are never shown


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine needs, with or without an HTTP server in front."""

    # The model
    model_dir: A[
        str, about("Checkpoint in Hugging Face layout, a directory or a hub name; the bundled model if empty")
    ] = ""
    model_name: A[str, about("Name the model is served under; the directory's name if empty")] = ""
    tokenizer_mode: A[Tokenizer, about("none: token ids in and out, no tokenizer is loaded")] = "auto"
    chat_template: A[str, about("File with a Jinja chat template, instead of the checkpoint's own")] = ""
    tool_call_parser: A[
        str, about("Form in which the model calls tools, see docs/tools.md; auto: what its chat template shows; none")
    ] = "auto"
    reasoning_parser: A[
        str, about("Form in which the model reasons, see docs/tools.md; auto: what its chat template shows; none")
    ] = "auto"
    output_constraint_mode: A[
        OutputConstraint, about("What makes answers follow JSON schemas and other grammars, see docs/structured.md")
    ] = "llguidance"
    mask_timeout_s: A[
        float, above(0), about("Seconds that sampling waits for what a grammar allows; then its request alone ends")
    ] = 10.0
    eos_id: A[list[int], about("Token ids that end an answer, instead of the checkpoint's own")] = []
    task: A[
        AskedTask,
        about(
            "What the model is for; auto: what its checkpoint says. embed: vectors of texts; rerank: how documents "
            "match a query, by the logits of the tokens yes and no"
        ),
    ] = "auto"
    pooling: A[
        AskedPooling,
        about(
            "What an embedding is of a text's hidden states: the last, their mean, or the first (cls); auto: what the "
            "checkpoint says, or else the last"
        ),
    ] = "auto"
    is_matryoshka: A[
        bool, about("Let requests ask for shorter embeddings, also where config.json does not say that they may")
    ] = False
    load_format: A[LoadFormat, about("dummy: random weights of the right shapes")] = "auto"
    data_type: A[DataType, about("Type of weights and activations; auto: float32 on a CPU, else the checkpoint's")] = (
        "auto"
    )
    quant_type: A[QuantType, about("What floats of the checkpoint are made of as they are read")] = "none"
    quant_cfg: A[str, about("YAML file that names such a format for single layers and matrices")] = ""
    kv_type: A[
        KvType,
        about("What keys, values and latents are kept in; bf16: the type of activations, which is float32 on a CPU"),
    ] = "bf16"
    mode: A[list[str], about("Older names of such types, as triton_int8kv; see docs/quantization.md")] = []
    trust_remote_code: A[bool, about("Accepted for compatibility: code in a checkpoint is never run")] = False

    # The devices
    device: A[Device, about("Where the model runs; auto: the GPU if there is one")] = "auto"
    tp: A[int, at_least(1), about("Tensor parallel ranks; each is a process with a device of its own")] = 1
    disable_cudagraph: A[bool, about("Launch every kernel of a step by itself")] = False
    graph_max_batch_size: A[
        int, at_least(1), about("Most tokens of a step that runs as a CUDA graph of sequences of one token")
    ] = 256
    graph_max_read_again: A[
        int,
        at_least(0),
        about("Tokens of contexts that chunks may read once for each of their tokens to run in such a graph; 0: never"),
    ] = 16384
    graph_max_tokens: A[
        int, at_least(0), about("Most tokens of any step that runs as a CUDA graph, chunks as they are; 0: none does")
    ] = 512
    allow_reference_ops: A[
        bool, about("Compute ops that have no kernel for a GPU by their slow reference, without CUDA graphs")
    ] = False

    # Memory
    mem_fraction: A[float, above(0, below=1), about("Share of the device's memory the engine may use in all")] = 0.9
    max_total_token_num: A[Count | None, about("Slots of the KV pool, in tokens; measured if not given")] = None
    max_req_total_len: A[Count | None, about("Longest prompt plus output; the checkpoint's limit if not given")] = None
    disable_dynamic_prompt_cache: A[bool, about("Do not share KV between requests with a common prefix")] = False

    # Scheduling
    batch_max_tokens: A[int, at_least(1), about("Most tokens that one step runs")] = 8192
    chunked_prefill_size: A[
        Count | None, about("Most prompt tokens of one request in one step; batch_max_tokens if not given")
    ] = None
    prompts_first: A[
        bool,
        about(
            "Let all requests together end sooner, though streams pause or begin later: while prompts fill steps, "
            "running requests are left out of these; or where all lengths are known and no more steps are needed, "
            "prompts run beside them in steps of graph_max_tokens (on a GPU)"
        ),
    ] = False
    running_max_req_size: A[int, at_least(1), about("Most requests that run at a time")] = 1000
    itl_target_s: A[
        PositiveSeconds | None,
        about(
            "Seconds that a step should take, and so the next token of a stream: prompts run beside those that decode "
            "as far as that allows; as far as batch_max_tokens allows if not given"
        ),
    ] = None
    max_queued_requests: A[int, at_least(0), about("Requests that may wait; one more is refused with 429")] = 4096
    max_queued_tokens: A[
        Count | None,
        about("Prompt tokens of the requests that may wait; more are refused with 429; no limit if not given"),
    ] = None
    timeout_s: A[
        PositiveSeconds | None,
        about("Seconds after which any request ends with what there is, or with 503; requests may ask for less"),
    ] = None
    schedule_policy: A[
        SchedulePolicy,
        about(
            "Who of the waiting requests goes next. fcfs: the oldest; priority: the smallest `priority`; "
            "shortest_predicted: the shortest expected answer; longest_prefix: the longest prompt prefix in the cache; "
            "fair_share: the tenant that was served least"
        ),
    ] = "fcfs"
    schedule_aging_s: A[
        float,
        above(0),
        about("Once the oldest request has waited this many seconds, every second admission is the oldest's"),
    ] = 10.0
    admission: A[
        Admission,
        about(
            "Who may run. past_future: while the peak fits the KV pool that past output lengths predict; conservative: "
            "while it fits if all generate max_tokens; watermark: while the pool's use is below --watermark"
        ),
    ] = "past_future"
    prediction_samples: A[
        int, msgspec.Meta(ge=1, le=4096), about("Times that all output lengths are drawn to predict the peak")
    ] = 64
    prediction_quantile: A[
        float, msgspec.Meta(gt=0, le=1), about("Share of the predicted peaks that has to fit the KV pool, at first")
    ] = 0.98
    preemption_target: A[
        float,
        msgspec.Meta(ge=0, lt=1),
        about("Preemptions per request that this share is adapted to, from 0.9 to 1"),
    ] = 0.005
    prediction_window: A[Count, about("Ended requests whose lengths predict those of others")] = 1000
    watermark: A[
        float, msgspec.Meta(gt=0, le=1), about("Share of the pool in use up to which the watermark policy admits")
    ] = 0.95
    preemption: A[
        Preemption,
        about(
            "Who gives way when the KV pool is full, never the oldest. cheapest: whose slots are enough and the fewest "
            "to compute again; latest: who came last"
        ),
    ] = "cheapest"
    long_truncation_mode: A[
        LongTruncation | None,
        about("What a prompt loses that is too long: its head, center or tail; refused with 400 if not given"),
    ] = None
    router_max_new_token_len: A[
        int, at_least(1), about("Output tokens that the scheduler expects of a request which sets no maximum")
    ] = 2048

    # Operation
    on_failure: A[
        OnFailure, about("When scheduler, worker or detokenizer dies: end the server, or restart the engine")
    ] = "exit"
    awake_s: A[
        A[float, msgspec.Meta(ge=0, le=60)] | None,
        about(
            "Seconds that processes look for news of a step, on a core each, before they sleep; if not given 0.02 on "
            "GPUs with two cores a process, else 0"
        ),
    ] = None
    log_level: A[LogLevel, about("Least severe messages shown")] = env.LOG_LEVEL
    profile_dir: A[str, about("Folder for the traces of /start_profile and /stop_profile, refused if empty")] = ""
    disable_log_stats: A[bool, about("Do not log throughput and memory use")] = False
    log_stats_interval: A[float, above(0), about("Seconds between two lines of statistics")] = 10.0


class ServerConfig(EngineConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine's settings and those of the HTTP server."""

    host: A[str, about("Address to listen on")] = "127.0.0.1"
    port: A[int, msgspec.Meta(ge=0, le=65535), about("Port to listen on; 0 picks a free one")] = 8000
    httpserver_workers: A[int, msgspec.Meta(ge=1, le=64), about("API processes that share the port")] = 1
    max_request_bytes: A[int, at_least(1), about("Largest request body; a larger one is refused with 413")] = 32 << 20
    ttft_target_s: A[
        PositiveSeconds | None,
        about("Refuse with 429 what would wait longer than this for its first token; no target if not given"),
    ] = None
    fair_share_by: A[
        FairShareBy,
        about("Who is a tenant. user: the request's `user`, or else its API key; api_key: the API key only"),
    ] = "user"

    stored_responses: A[int, at_least(0), about("Responses, and chats with store=true, that are kept at most")] = 10_000
    stored_response_bytes: A[int, at_least(0), about("Bytes that they may have, all together; the oldest go first")] = (
        256 << 20
    )
    stored_response_s: A[float, above(0), about("Seconds after which each is forgotten")] = 86_400.0

    use_tgi_api: A[
        bool, about("Serve /generate, /generate_stream, / and /info in text-generation-inference's form")
    ] = False

    # Who may use it, and how
    api_key: A[
        list[str],
        about(
            "API keys; requests must carry one as `Authorization: Bearer KEY` or `x-api-key: KEY`. Each is KEY or "
            "'NAME KEY'. Others can see what is given here with `ps`: see --api_key_file and LIGHTLLM_API_KEYS"
        ),
    ] = []
    api_key_file: A[str, about("File with API keys, a line each: KEY or NAME KEY; # begins a comment")] = ""
    access_log: A[AccessLog, about("A line on standard output for each request; json: an object of JSON")] = "off"
    ssl_certfile: A[str, about("Certificate (with its chain, PEM) to serve HTTPS with; HTTP if empty")] = ""
    ssl_keyfile: A[str, about("Private key of --ssl_certfile (PEM); taken from the same file if empty")] = ""
    allowed_origins: A[
        list[str], about("Origins whose web pages may use the server (CORS), or *; only its own if not given")
    ] = []
    allowed_methods: A[list[str], about("HTTP methods that these pages may use; all if not given")] = []
    allowed_headers: A[list[str], about("HTTP headers that these pages may send; all if not given")] = []
    allow_credentials: A[bool, about("Let these pages send cookies; not with --allowed_origins *")] = False

    # Operation
    graceful_timeout_s: A[float, at_least(0), about("After SIGTERM, seconds that open requests have to finish")] = 60.0


def kv_type_of(config: EngineConfig) -> KvType:
    """What --kv_type and --mode ask for together. Raises ConfigError naming what is unknown or at odds."""
    asked: dict[KvType, str] = {config.kv_type: "--kv_type"} if config.kv_type != "bf16" else {}
    for mode in config.mode:
        if mode not in MODES:
            raise ConfigError(f"--mode={mode} is not supported; supported: {', '.join(MODES)}")
        if kind := MODES[mode]:
            asked[kind] = f"--mode={mode}"
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked.values())} ask for {' and '.join(asked)}; give one")
    kinds: list[KvType] = [*asked, "bf16"]
    return kinds[0]


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
            shown = "***" if name in SECRETS else value
            raise ConfigError(f"--{name}={shown}: {error}{_allowed(hints[name])}") from None
    return kind(**cleaned)


def _allowed(hint: Any) -> str:
    """What a setting that is one of several words may be, for an error."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return f"; allowed: {', '.join(map(str, get_args(hint)))}" if get_origin(hint) is Literal else ""
