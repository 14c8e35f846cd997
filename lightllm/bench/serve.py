"""`lightllm bench serve`: requests to a server that runs, and how long it takes to answer them."""

import json
import time
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from lightllm.base.errors import ConfigError
from lightllm.bench import arrivals, clients, datasets, figures, plot, prompts, report
from lightllm.bench import options as read
from lightllm.bench.backends import PATHS
from lightllm.bench.clients import Measured
from lightllm.bench.datasets import Conversation
from lightllm.bench.options import ServeOptions
from lightllm.bench.outcome import Work
from lightllm.demo import MODEL_DIR

_DEMO = "lightllm-demo"
_WARM_UP_SEED = 1 << 30  # so that warming up does not put the measured prompts into a cache
_RETRY_S = 0.1


def run(options: ServeOptions) -> int:
    """Measures, prints, writes. 1 if no request succeeded. Raises ConfigError, ClientError."""
    wanted = _Wanted.of(options)
    server = Server(options)
    measured = _measure(options, server)
    found = wanted.figures(measured)
    report.show(found, wanted.latencies)
    if options.save_result or options.save_detailed:
        _write(options, server.model, wanted.metadata | found, measured)
    if options.plot:
        plot.draw(measured.outcomes, options.plot)
    return 0 if found["completed"] else 1


@dataclass(frozen=True)
class _Wanted:
    """What options say of figures, read before anything is measured."""

    latencies: list[str]
    percentiles: list[float]
    limits: dict[str, float]
    metadata: dict[str, str]

    @classmethod
    def of(cls, options: ServeOptions) -> "_Wanted":
        """Raises ConfigError for whatever could not be reported afterwards."""
        plot.check(options.plot)
        return cls(
            read.metrics(options.percentile_metrics),
            read.numbers(options.metric_percentiles, "metric_percentiles"),
            read.goodput(options.goodput),
            read.named_values(options.metadata, "metadata"),
        )

    def figures(self, measured: Measured) -> dict[str, Any]:
        found = figures.totals(measured.outcomes, self.limits)
        found |= figures.summary(figures.latencies(measured.outcomes), self.latencies, self.percentiles)
        return found | {
            "client_cpu_share": measured.cpu_share,
            "client_lag_p99_ms": 1e3 * measured.lag_p99,
            "client_lag_max_ms": 1e3 * measured.lag_max,
        }


def _measure(options: ServeOptions, server: "Server") -> Measured:
    """Warms up, then sends what counts."""
    if options.backend == "openai-chat" and options.prompt_form == "ids":
        raise ConfigError("--prompt_form=ids: chat messages are text; use --backend openai or native")
    made = prompts.load(options, _tokenizer_directory(options, server.model))
    conversations = datasets.make(options, made)
    if options.num_warmups:
        warming = datasets.make(options, made, count=options.num_warmups, seed=options.seed + _WARM_UP_SEED)
        _send(options, server, warming, [0.0] * len(warming), title="warming up")
    due = arrivals.offsets(len(conversations), options.request_rate, options.burstiness, options.seed)
    if options.profile:
        server.post("/start_profile")
    measured = _send(options, server, conversations, due, title=options.dataset_name)
    if options.profile:
        server.post("/stop_profile")
    return measured


class Server:
    """Where requests go, and what the model is called there."""

    def __init__(self, options: ServeOptions):
        """Waits until it answers. Raises ConfigError."""
        self.url = (options.base_url or f"http://{options.host}:{options.port}").rstrip("/")
        if not urlsplit(self.url).hostname or urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"--base_url={options.base_url} is no address; give one as in http://127.0.0.1:8000")
        self.path = options.endpoint or PATHS[options.backend]
        self.headers = read.named_values(options.header, "header")
        self.model = self._model(options)

    def post(self, path: str) -> None:
        """Raises ConfigError with what the server has against it."""
        try:
            urlopen(Request(self.url + path, b"", self.headers), timeout=120).close()
        except HTTPError as error:
            with error:
                raise ConfigError(
                    f"{self.url}{path}: {error.code} {error.read(1000).decode(errors='replace')}"
                ) from None

    def _model(self, options: ServeOptions) -> str:
        served = self._models(options.ready_check_timeout_sec)
        if served is None or options.model in served:
            return options.model
        if served and (not options.model or Path(options.model).is_dir()):
            return served[0]
        raise ConfigError(f"--model={options.model} is not served at {self.url}; it has {', '.join(served) or 'none'}")

    def _models(self, timeout_s: float) -> list[str] | None:
        """Names of what is served; None from a server that does not tell. Raises ConfigError."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with urlopen(Request(f"{self.url}/v1/models", headers=self.headers), timeout=10) as response:
                    return [model["id"] for model in json.load(response)["data"]]
            except HTTPError as error:
                error.close()
                if error.code == 404:
                    return None
                if error.code < 500:
                    raise ConfigError(
                        f"{self.url}/v1/models answers {error.code} {error.reason}; see --header"
                    ) from None
                failure: Exception = error
            except (URLError, OSError, HTTPException, ValueError, KeyError) as error:
                failure = error
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"{self.url}/v1/models does not answer ({failure}); start a server, or give --base_url"
                )
            time.sleep(_RETRY_S)


def _tokenizer_directory(options: ServeOptions, model: str) -> Path | None:
    given = Path(options.tokenizer or options.model).expanduser()
    if options.tokenizer or (options.model and given.is_dir()):
        return given
    return MODEL_DIR if model == _DEMO else None


def _send(
    options: ServeOptions, server: Server, conversations: list[Conversation], due: list[float], *, title: str
) -> Measured:
    """Conversations are dealt to the client processes one by one, as are places to run where they are limited."""
    processes = min(options.client_processes, len(conversations), options.max_concurrency or len(conversations))
    works = [
        Work(
            url=server.url,
            path=server.path,
            headers=server.headers,
            backend=options.backend,
            model=server.model,
            sampling={
                "temperature": options.temperature,
                "top_p": options.top_p,
                "top_k": options.top_k,
                "ignore_eos": options.ignore_eos,
            },
            max_concurrency=options.max_concurrency and len(range(number, options.max_concurrency, processes)),
            numbers=list(range(number, len(conversations), processes)),
            due=due[number::processes],
            conversations=conversations[number::processes],
            keeps_text=options.save_detailed,
        )
        for number in range(processes)
    ]
    return clients.run(works, num_requests=sum(map(len, conversations)), bar=not options.disable_tqdm, title=title)


def _write(options: ServeOptions, model: str, found: dict[str, Any], measured: Measured) -> None:
    now = datetime.now()
    content = {
        "date": now.strftime("%Y%m%d-%H%M%S"),
        "backend": options.backend,
        "endpoint_type": options.backend,
        "model_id": model,
        "tokenizer_id": options.tokenizer or options.model or model,
        "dataset_name": options.dataset_name,
        "num_prompts": options.num_prompts,
        "request_rate": options.request_rate if options.request_rate != float("inf") else "inf",
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        **found,
    }
    if options.save_detailed:
        content |= figures.details(measured.outcomes)
    name = (
        options.result_filename
        or f"{options.backend}-{options.request_rate:g}qps-{model.replace('/', '_')}-{content['date']}.json"
    )
    path = Path(options.result_dir) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))
    print(f"written to {path}")
