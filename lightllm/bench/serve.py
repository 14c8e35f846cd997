"""`lightllm bench serve`: requests to a server that runs, and how long it takes to answer them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightllm.base.errors import ConfigError
from lightllm.bench import arrivals, clients, datasets, figures, plot, prompts, report, result
from lightllm.bench import options as read
from lightllm.bench.clients import Measured
from lightllm.bench.datasets import Conversation
from lightllm.bench.options import ServeOptions
from lightllm.bench.outcome import Work
from lightllm.bench.server import Server
from lightllm.demo import MODEL_DIR

_DEMO = "lightllm-demo"
_INTERRUPTED = 130


def run(options: ServeOptions) -> int:
    """Measures, prints, writes. 1 if a request failed, 130 if Ctrl-C ended it. Raises ConfigError, ClientError."""
    wanted = _Wanted.of(options)
    server = Server(options)
    measured = _measure(options, server)
    found = wanted.figures(measured)
    report.show(found, wanted.latencies)
    if options.save_result or options.save_detailed:
        result.write(options, server.model, wanted.metadata | found, measured)
    if options.plot:
        plot.draw(measured.outcomes, options.plot, _title(options, server.model, found))
    if found["interrupted"]:
        return _INTERRUPTED
    return 1 if found["failed"] else 0


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
        if options.plot:
            plot.check(options.plot)
        result.check(options)
        read.fields(options.extra_body)
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
            "interrupted": measured.interrupted,
            "client_cpu_share": measured.cpu_share,
            "client_lag_p99_ms": 1e3 * measured.lag_p99,
            "client_lag_max_ms": 1e3 * measured.lag_max,
        }


def _measure(options: ServeOptions, server: Server) -> Measured:
    """Warms up, then sends what counts. Raises KeyboardInterrupt if nothing was answered before Ctrl-C."""
    if options.backend == "openai-chat" and options.prompt_form == "ids":
        raise ConfigError("--prompt_form=ids: chat messages are text; use --backend openai or native")
    made = prompts.load(options, _tokenizer_directory(options, server.model))
    conversations = datasets.make(options, made)
    due = arrivals.offsets(len(conversations), options.request_rate, options.burstiness, options.seed)
    if options.num_warmups:
        warming = datasets.make_for_warm_up(options, made, options.num_warmups)
        _send(options, server, warming, [0.0] * len(warming), title="warming up")
    if not options.profile:
        return _send(options, server, conversations, due, title=options.dataset_name, counts=True)
    server.start_profile()
    try:
        return _send(options, server, conversations, due, title=options.dataset_name, counts=True)
    finally:
        server.stop_profile()


def _title(options: ServeOptions, model: str, found: dict[str, Any]) -> str:
    """What a picture shows, in one line."""
    rate = "" if options.request_rate == float("inf") else f", {options.request_rate:g} a second"
    limit = f", {options.max_concurrency} at a time" if options.max_concurrency else ""
    failed = f", {found['failed']:,} failed" if found["failed"] else ""
    return (
        f"{model}, {options.dataset_name}: {found['completed']:,} requests{rate}{limit}{failed}; "
        f"{found['output_throughput']:,.0f} output tokens/s"
    )


def _tokenizer_directory(options: ServeOptions, model: str) -> Path | None:
    given = Path(options.tokenizer or options.model).expanduser()
    if options.tokenizer or (options.model and given.is_dir()):
        return given
    return MODEL_DIR if model == _DEMO else None


def _send(
    options: ServeOptions,
    server: Server,
    conversations: list[Conversation],
    due: list[float],
    *,
    title: str,
    counts: bool = False,
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
            extra=read.fields(options.extra_body),
        )
        for number in range(processes)
    ]
    return clients.run(
        works,
        num_requests=sum(map(len, conversations)),
        bar=not options.disable_tqdm,
        title=title,
        may_end_early=counts,
    )
