"""What can be set on the command line of `lightllm bench`, once. Names are those of other servers' benchmarks."""

from typing import Annotated, Any, Literal

import msgspec

from lightllm.base.config import Count, Device, about, above, at_least
from lightllm.base.errors import ConfigError

A = Annotated
BackendName = Literal["openai", "openai-chat", "native", "vllm", "sglang"]
DatasetName = Literal["random", "sharegpt", "prefix-repetition", "multi-turn"]
PromptForm = Literal["text", "ids"]
Ratio = A[float, msgspec.Meta(ge=0, lt=1)]
METRICS = ("ttft", "tpot", "itl", "e2el")


class DatasetOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which prompts, and how long the answers."""

    dataset_name: A[DatasetName, about("What the prompts are")] = "random"
    dataset_path: A[str, about("File of the dataset: for sharegpt, its JSON")] = ""
    num_prompts: A[int, at_least(1), about("Prompts; for multi-turn, conversations")] = 1000
    seed: A[int, about("What is drawn at random depends on this alone")] = 0
    tokenizer: A[
        str, about("Directory with tokenizer.json; if not given, that of MODEL where it is a directory, or is bundled")
    ] = ""
    prompt_form: A[
        PromptForm, about("text: words that are one token each; ids: token ids, which the API takes too")
    ] = "text"
    input_len: A[Count | None, about("Tokens of a prompt, whatever the dataset, in the place of its own flag")] = None
    output_len: A[Count | None, about("Tokens of an answer, whatever the dataset, in the place of its own flag")] = None
    random_input_len: A[int, at_least(1), about("Tokens of a random prompt, or of a user's turn")] = 1024
    random_output_len: A[int, at_least(1), about("Tokens of an answer")] = 128
    random_range_ratio: A[
        Ratio, about("Lengths L of random prompts and answers are drawn from L * (1 - X) to L * (1 + X)")
    ] = 0.0
    random_prefix_len: A[int, at_least(0), about("Tokens that begin every random prompt, before its own")] = 0
    sharegpt_output_len: A[Count | None, about("Tokens of an answer; as in the file if not given")] = None
    prefix_repetition_prefix_len: A[int, at_least(1), about("Tokens of a prefix")] = 256
    prefix_repetition_suffix_len: A[int, at_least(1), about("Tokens of a prompt after its prefix")] = 256
    prefix_repetition_num_prefixes: A[int, at_least(1), about("Different prefixes")] = 10
    prefix_repetition_output_len: A[int, at_least(1), about("Tokens of an answer")] = 128
    multi_turn_num_turns: A[
        int, at_least(1), about("Turns of a conversation, each sent with all before it and their answers")
    ] = 10
    multi_turn_first_input_len: A[
        Count | None, about("Tokens of the first turn; random_input_len, as the others, if not given")
    ] = None


class ServeOptions(DatasetOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests to a server that runs."""

    backend: A[
        BackendName, about("API to use: /v1/completions (so do vllm, sglang), /v1/chat/completions or /generate_stream")
    ] = "openai"
    base_url: A[str, about("Address of the server, with /v1 or without, instead of host and port")] = ""
    host: A[str, about("Host of the server")] = "127.0.0.1"
    port: A[int, msgspec.Meta(ge=1, le=65535), about("Port of the server")] = 8000
    endpoint: A[str, about("Path of the API, if it is not the usual one")] = ""
    model: A[str, about("Name of the model, or its directory; the server's first model if not given")] = ""
    header: A[list[str], about("More HTTP headers, each as NAME=VALUE")] = []
    request_rate: A[float, msgspec.Meta(gt=0), about("Requests a second; inf: all at once")] = float("inf")
    burstiness: A[
        float, above(0), about("Shape of the gamma distribution of gaps; 1: a Poisson process, more: more regular")
    ] = 1.0
    max_concurrency: A[Count | None, about("Most requests at a time; no limit if not given")] = None
    num_warmups: A[int, at_least(0), about("Requests before those that count, of prompts of their own")] = 0
    ready_check_timeout_sec: A[float, at_least(0), about("How long to wait for the server to answer")] = 600.0
    ignore_eos: A[bool, about("Answers are as long as asked for, whatever the model says")] = False
    temperature: A[float, at_least(0), about("Of sampling; 0: greedy")] = 0.0
    top_p: A[float | None, about("Of sampling; the server's default if not given")] = None
    top_k: A[int | None, about("Of sampling; the server's default if not given")] = None
    extra_body: A[str, about("More fields of each request, a JSON object; for native, of its parameters")] = ""
    client_processes: A[int, at_least(1), about("Processes that send and read, each on a core of its own")] = 1
    profile: A[bool, about("Have the server profile the requests that count: /start_profile, /stop_profile")] = False
    percentile_metrics: A[str, about("Which latencies to report, with commas between: ttft, tpot, itl, e2el")] = (
        "ttft,tpot,itl,e2el"
    )
    metric_percentiles: A[str, about("Percentiles to report of each, with commas between")] = "90,99"
    goodput: A[list[str], about("Latencies, ms, that a good request stays within, as ttft:200 tpot:50 e2el:9000")] = []
    save_result: A[bool, about("Write figures to a JSON file")] = False
    save_detailed: A[bool, about("Write figures of every request to it too")] = False
    result_dir: A[str, about("Directory of the JSON file")] = "."
    result_filename: A[str, about("Its name; made of backend, rate, model and date if not given")] = ""
    metadata: A[list[str], about("To be kept in the JSON file, each as NAME=VALUE")] = []
    plot: A[str, about("Draw latencies and rates to this file, .png or .svg (needs matplotlib)")] = ""
    disable_tqdm: A[bool, about("No progress bar")] = False


class OfflineOptions(DatasetOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts to an engine in this process, all at once."""

    prompt_form: A[PromptForm, about("text: words that are one token each; ids: token ids, without a tokenizer")] = (
        "ids"
    )
    prompt_cache: A[bool, about("Share KV between prompts that begin alike; else the prefix tree is off")] = False
    temperature: A[float, at_least(0), about("Of sampling; 0: greedy")] = 0.0
    num_iters: A[int, at_least(1), about("Times to measure; the best counts")] = 1
    output_json: A[str, about("Write figures to this JSON file")] = ""
    disable_tqdm: A[bool, about("No progress bar")] = False


class LatencyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One batch of random token ids, again and again."""

    input_len: A[int, at_least(1), about("Tokens of a prompt")] = 1024
    output_len: A[int, at_least(1), about("Tokens of an answer; a decode step is what those after the first take")] = (
        129
    )
    batch_size: A[int, at_least(1), about("Requests of the batch")] = 8
    num_iters_warmup: A[int, at_least(0), about("Batches before those that count")] = 1
    num_iters: A[int, at_least(1), about("Batches that count")] = 2
    seed: A[int, about("The prompts depend on this alone")] = 0
    output_json: A[str, about("Write figures to this JSON file")] = ""
    disable_tqdm: A[bool, about("No progress bar")] = False


class OpsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ops, one by one."""

    device: A[Device, about("Where; auto: the GPU if there is one")] = "auto"
    only: A[str, about("Only cases whose op, size or implementation contains this")] = ""
    skip: A[list[str], about("No cases that contain one of these")] = []
    warm: A[str, about("I/N: measure nothing, only compile every N-th case from the I-th on")] = ""
    output_json: A[str, about("Write figures to this JSON file")] = ""


class TuneOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search for launch parameters."""

    tp: A[int, at_least(1), about("Ranks that the model will be shared by")] = 1
    only: A[str, about("Only ops whose name contains this: linear, attend decodes, attend chunks")] = ""
    budget_s: A[
        float, above(0), about("Seconds for each op and size; what is nearest to the default is tried first")
    ] = 60.0
    output: A[str, about("File to write; if not given, the one in the user's cache that kernels read")] = ""
    disable_tqdm: A[bool, about("No progress bar")] = False


def numbers(text: str, flag: str) -> list[float]:
    """Percentiles with commas between. Raises ConfigError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 <= value <= 100 for value in values):
        raise ConfigError(f"--{flag}={text}: give numbers from 0 to 100, as in 50,99")
    return values


def metrics(text: str) -> list[str]:
    """Names of latencies with commas between. Raises ConfigError."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [name for name in names if name not in METRICS]:
        raise ConfigError(f"--percentile_metrics={text}: no {wrong[0]!r}; use {', '.join(METRICS)}")
    return names


def goodput(pairs: list[str]) -> dict[str, float]:
    """Limits in ms by name of the latency. Raises ConfigError."""
    limits = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = -1.0
        if name not in ("ttft", "tpot", "e2el") or limits[name] < 0:
            raise ConfigError(f"--goodput={pair}: use ttft, tpot or e2el, a colon and milliseconds, as in ttft:200")
    return limits


def fields(text: str) -> dict[str, Any]:
    """A JSON object. Raises ConfigError."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except msgspec.DecodeError as error:
        raise ConfigError(f"--extra_body={text}: {error}; give a JSON object, as in '{{\"min_p\": 0.1}}'") from None


def named_values(pairs: list[str], flag: str) -> dict[str, str]:
    """NAME=VALUE pairs. Raises ConfigError."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ConfigError(f"--{flag}={wrong[0]}: give NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)
