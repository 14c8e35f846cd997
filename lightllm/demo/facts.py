"""What the model knows of flags and endpoints: topics with their one answer, and the ways to ask for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """`names` fit "What is ...?", `purposes` fit "How do I ...?", `questions` stand for themselves."""

    answer: str
    names: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


def flag(name: str, answer: str, *purposes: str) -> Topic:
    """A flag goes by its name in many spellings."""
    dashed = name.replace("_", "-")
    names = (
        f"--{name}",
        f"--{name}",
        f"the --{name} flag",
        f"the flag --{name}",
        f"the option --{name}",
        f"--{dashed}",
        f"the {name} flag",
        f"the {name} setting",
        name,
        name.replace("_", " "),
    )
    return Topic(f"--{name} {answer}", names, purposes)


def endpoint(path: str, answer: str, *purposes: str) -> Topic:
    names = (path, path, f"the {path} endpoint", f"the endpoint {path}", f"the {path} route", f"the {path} path",
             f"the {path.strip('/')} endpoint")  # fmt: skip
    return Topic(f"{path} {answer}", names, purposes)


FLAGS = [
    flag(
        "model_dir",
        "names the folder of the model to serve, in the Hugging Face layout. Without it the small demo model is "
        "served.",
        "choose the model", "serve my own model", "say which model to load", "load another checkpoint",
        "set the model path", "use a model from a folder", "serve a Hugging Face model",
        "point the server at a model",
    ),
    flag(
        "tp",
        "sets tensor parallelism: the number of devices that every layer is split over. For example, --tp 2 uses "
        "two GPUs.",
        "use several GPUs", "use two GPUs", "split the model over devices", "set the number of GPUs",
        "run on more than one GPU", "serve a model that is too large for one GPU", "set the tensor parallel size",
        "turn on tensor parallelism",
    ),
    flag(
        "mem_fraction",
        "is the share of the device's memory that the server may use. What the weights leave of it becomes the KV "
        "cache.",
        "limit GPU memory", "use less GPU memory", "set how much device memory is used",
        "leave memory for other programs", "fix out of memory errors", "change the share of memory",
    ),
    flag(
        "port",
        "sets the TCP port that the HTTP server listens on. For example, --port 8080.",
        "change the port", "set the port", "listen on another port", "start the server on port 8080",
        "use a different port", "choose the port number",
    ),
    flag(
        "host",
        "sets the address that the HTTP server listens on. Use 0.0.0.0 to accept other machines.",
        "accept connections from other machines", "listen on all addresses", "set the host",
        "change the address of the server", "reach the server from the network", "bind to 0.0.0.0",
    ),
    flag(
        "max_total_token_num",
        "is the number of tokens that the KV cache holds for all requests together. By default it is measured.",
        "set the size of the KV cache", "limit the tokens of all requests together", "set the pool size",
        "make the cache smaller", "fix the number of token slots",
    ),
    flag(
        "max_req_total_len",
        "limits the tokens of one request, prompt and answer together.",
        "limit the length of a request", "set the longest context", "allow longer prompts", "set the maximum length",
        "limit prompt plus answer", "change the context length",
    ),
    flag(
        "batch_max_tokens",
        "is the largest number of tokens that one step may run, prefill and decode together.",
        "limit the tokens of a step", "set the token budget", "set how many tokens run in one step",
        "limit the batch",
    ),
    flag(
        "running_max_req_size",
        "is the largest number of requests that run at the same time. Others wait in the queue.",
        "limit concurrent requests", "set how many requests run at once", "limit the number of running requests",
        "allow more parallel requests", "set the maximum concurrency",
    ),
    flag(
        "disable_dynamic_prompt_cache",
        "turns the prefix cache off, so that no request reuses the prompt of another.",
        "turn off the prefix cache", "disable the prompt cache", "stop sharing prompts", "switch off prompt caching",
        "run without a prefix tree",
    ),
    flag(
        "chunked_prefill_size",
        "is the most prompt tokens that one request runs in a step. A longer prompt is cut into chunks.",
        "set the chunk size", "cut long prompts into chunks", "change the prefill chunk",
        "keep long prompts from blocking others",
    ),
    flag(
        "data_type",
        "sets the number format of the weights and activations: bfloat16, float16 or float32.",
        "use float32", "run in float16", "change the precision", "set the dtype", "choose bfloat16",
        "choose the number format",
    ),
    flag(
        "tokenizer_mode",
        "says how text becomes tokens. With none the server takes and gives token ids only.",
        "run without a tokenizer", "send token ids instead of text", "choose the tokenizer mode",
        "switch the tokenizer off",
    ),
    flag(
        "httpserver_workers",
        "is the number of API processes that accept HTTP requests.",
        "start more API processes", "accept more HTTP connections", "set the number of HTTP workers",
        "scale the HTTP server",
    ),
    flag(
        "eos_id",
        "names the token ids that end an answer, in place of those of the checkpoint.",
        "change the end token", "set the eos token", "override the stop token ids", "say which token ends an answer",
    ),
    flag(
        "model_name",
        "sets the name under which /v1/models lists the model.",
        "rename the model", "set the name of the model", "change the model name that clients see",
    ),
]  # fmt: skip
ENDPOINTS = [
    endpoint(
        "/generate",
        "takes inputs and parameters as JSON and gives the whole generated text back at once.",
        "generate text without streaming", "use the native API", "get the whole answer at once from the native API",
    ),
    endpoint(
        "/generate_stream",
        "takes the same JSON as /generate and streams the tokens as server-sent events.",
        "stream with the native API", "stream tokens natively", "get native tokens one by one",
    ),
    endpoint(
        "/v1/chat/completions",
        "answers a list of chat messages, as the OpenAI API does. Set stream to true for streaming.",
        "chat over HTTP", "send chat messages", "use the OpenAI chat API", "send messages with roles",
    ),
    endpoint(
        "/v1/completions",
        "completes a text prompt, or a list of them, as the OpenAI API does.",
        "complete a prompt", "continue a text", "use the OpenAI completions API", "send several prompts at once",
    ),
    endpoint(
        "/v1/models",
        "lists the models that the server offers.",
        "list the models", "see which models are served", "find out the name of the model",
    ),
    endpoint(
        "/health",
        "answers 200 while the engine works and 503 when a part of it has failed.",
        "check if the server is healthy", "see whether the server works", "probe the server", "do a health check",
    ),
    endpoint(
        "/healthz",
        "is another name of /health: 200 while the engine works, 503 when it does not.",
        "use a Kubernetes probe", "check liveness from Kubernetes",
    ),
    endpoint(
        "/token_load",
        "says how full the KV cache is, as a share of its tokens.",
        "see how full the KV cache is", "read the load of the server", "measure the token load",
    ),
    endpoint(
        "/tokens",
        "counts the tokens of a text without generating anything.",
        "count the tokens of a text", "find out how many tokens my prompt has", "measure the length of a prompt",
    ),
    endpoint(
        "/version",
        "gives the version of LightLLM that is running.",
        "see the version of the server", "find out which version runs", "ask for the version",
    ),
    endpoint(
        "/metrics",
        "gives counters and histograms in the Prometheus format.",
        "monitor the server", "collect Prometheus metrics", "read the metrics", "scrape statistics",
    ),
]  # fmt: skip
