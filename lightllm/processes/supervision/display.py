"""What a start shows: progress while weights load, the processes, where memory went, the address."""

import json
import sys
import time
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from lightllm.base import log
from lightllm.base.config import ServerConfig
from lightllm.base.task import Task
from lightllm.processes.supervision.member import ChildProcess
from lightllm.serving.parsing.choice import choose
from lightllm.serving.text.chat_template import find_sources

_log = log.get(__name__)
_MIB = 1 << 20
_WORTH_SHOWING = 256 * _MIB  # smaller models are loaded before one has read a line


class LoadingProgress:
    """Bytes of weights on all ranks: a bar on a terminal, else a line for each quarter."""

    def __init__(self, ranks: int):
        self._done, self._total = [0] * ranks, [0] * ranks
        self._bar: tqdm | None = None
        self._quarters = 0
        self._began: float | None = None  # when the first rank began to load

    def update(self, rank: int, done: int, total: int) -> None:
        self._done[rank], self._total[rank] = done, total
        self._began = self._began or time.monotonic()
        if sum(self._total) < _WORTH_SHOWING:
            return
        if sys.stderr.isatty() and _log.isEnabledFor(20):
            self._draw()
        else:
            self._write()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self) -> None:
        if self._bar is None:
            self._bar = tqdm(desc="loading weights", unit="B", unit_scale=True, file=sys.stderr, leave=False)
        self._bar.total = sum(self._total)
        self._bar.update(sum(self._done) - self._bar.n)

    def _write(self) -> None:
        done, total = sum(self._done), sum(self._total)
        if 4 * done // total > self._quarters:
            self._quarters = 4 * done // total
            rate = done / 1e9 / max(time.monotonic() - (self._began or 0.0), 1e-3)
            _log.info("weights: %d of %d MiB loaded, %.1f GB/s", done // _MIB, total // _MIB, rate)


def show_processes(supervisor: int, children: Iterable[ChildProcess]) -> None:
    """The tree of processes, as `ps` would show it."""
    lines = [f"{child.label:<14} pid {child.pid}" for child in children]
    _log.info("supervisor        pid %d", supervisor)
    for i, line in enumerate(lines):
        _log.info("%s %s", "└─" if i == len(lines) - 1 else "├─", line)


def show_memory(config: ServerConfig, pool_tokens: int, memory: Sequence[tuple[str, int]]) -> None:
    """The sum that gave the pool its size. `memory` is rank 0's: what for, bytes."""
    where = f" of each of {config.tp} ranks" if config.tp > 1 else ""
    _log.info("memory%s:", where)
    rows = [*memory, ("in all", sum(size for _, size in memory))]
    width = max(len(name) for name, _ in rows)
    for name, size in rows:
        _log.info("  %-*s %10.1f MiB", width, name, size / _MIB)
    _log.info(
        "room for %d tokens; one request may have %d", pool_tokens, min(pool_tokens, config.max_req_total_len or 0)
    )


def show_formats(config: ServerConfig) -> None:
    """How the answers of chats are read, and why so."""
    for what, choice in choose(config).report().items():
        _log.info("%s of chats: %s", what, choice)


def show_address(config: ServerConfig) -> None:
    """Where to reach the server, and a command that does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    url = f"http{'s' if config.ssl_certfile else ''}://{host}:{config.port}"
    key = " -H 'Authorization: Bearer KEY'" if config.api_key else ""
    path, body = _example(config)
    _log.info("%s is served at %s; try", config.model_name, url)
    _log.info("curl %s%s -H 'Content-Type: application/json'%s -d '%s'", url, path, key, json.dumps(body))


def _example(config: ServerConfig) -> tuple[str, dict]:
    """A route that the model is for, and a body for it."""
    task, has_text, model = Task.of(config), config.tokenizer_mode != "none", {"model": config.model_name}
    if task.kind == "embed":
        return "/v1/embeddings", model | {"input": "What is 25 + 17?" if has_text else [1, 2, 3]}
    if task.kind == "classify" and has_text:
        return "/v1/rerank", model | {"query": "What is 25 + 17?", "documents": ["42", "Nothing much."]}
    if task.kind != "generate":
        return "/get_score", {"chat": "What is 25 + 17? It is 42." if has_text else [1, 2, 3]}
    return _generating(config)


def _generating(config: ServerConfig) -> tuple[str, dict]:
    common = {"model": config.model_name, "max_tokens": 64}
    if config.tokenizer_mode == "none":
        return "/v1/completions", common | {"prompt": [1, 2, 3]}
    if find_sources(config):
        return "/v1/chat/completions", common | {"messages": [{"role": "user", "content": "What is 25 + 17?"}]}
    return "/v1/completions", common | {"prompt": "The sum of 25 and 17 is"}
