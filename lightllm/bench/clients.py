"""Client processes: started together, watched together, their reports put together."""

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
from tqdm import tqdm

from lightllm.base import env
from lightllm.base.errors import LightLLMError
from lightllm.bench.outcome import Message, Outcome, Progress, Ready, Report, Work

_HEAD_START_S = 0.1  # until the first request, for all processes to have heard of it
_decode = msgspec.json.Decoder(Message).decode


class ClientError(LightLLMError):
    """A client process has ended before its work was done."""


@dataclass
class Measured:
    """All outcomes, by conversation and turn, and how busy the clients were."""

    outcomes: list[Outcome]
    start: float  # time.perf_counter()
    cpu_share: float  # of one core, of the busiest process
    lag_p99: float  # s, of the latest process
    lag_max: float


def run(works: Sequence[Work], *, num_requests: int, bar: bool, title: str) -> Measured:
    """Runs each work in a process of its own. Raises ClientError."""
    with contextlib.ExitStack() as resources:
        crew = [_Process(resources, work) for work in works]
        for process in crew:
            assert isinstance(next(process.messages), Ready), "it says this first"
        start = time.perf_counter() + _HEAD_START_S
        for process in crew:
            process.tell(repr(start))
        with tqdm(total=num_requests, desc=title, unit="req", disable=not bar, smoothing=0) as progress:
            _watch(crew, progress, start)
    reports = [process.report for process in crew if process.report is not None]
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    return Measured(
        sorted(outcomes, key=lambda outcome: (outcome.conversation, outcome.turn)),
        start,
        max(report.cpu_share for report in reports),
        max(report.lag_p99 for report in reports),
        max(report.lag_max for report in reports),
    )


class _Process:
    def __init__(self, resources: contextlib.ExitStack, work: Work):
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightllm.bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env.child_environment(),
        )
        resources.enter_context(self._popen)
        resources.callback(self._popen.kill)
        assert self._popen.stdin is not None, "a pipe"
        assert self._popen.stdout is not None, "a pipe"
        self._in, self.out = self._popen.stdin, self._popen.stdout
        self.messages = self._read()
        self.progress = Progress(0, 0, 0, 0)
        self.report: Report | None = None
        self.tell(msgspec.json.encode(work).decode())

    def tell(self, line: str) -> None:
        self._in.write(line.encode() + b"\n")
        self._in.flush()

    def _read(self) -> Iterator[Message]:
        while line := self.out.readline():
            yield _decode(line)
        raise ClientError(f"a client process ended with code {self._popen.wait()}; what it wrote above says why")


def _watch(crew: list[_Process], bar: tqdm, start: float) -> None:
    """Until all have reported."""
    with selectors.DefaultSelector() as selector:
        for process in crew:
            selector.register(process.out, selectors.EVENT_READ, process)
        while selector.get_map():
            for key, _ in selector.select():
                process: _Process = key.data
                match next(process.messages):
                    case Report() as report:
                        process.report, done = report, len(report.outcomes)
                        process.progress = Progress(done, sum(not o.is_good for o in report.outcomes), 0, report.events)
                        selector.unregister(process.out)
                    case Progress() as progress:
                        process.progress = progress
                _show(bar, [process.progress for process in crew], start)


def _show(bar: tqdm, parts: list[Progress], start: float) -> None:
    took = max(time.perf_counter() - start, 1e-3)
    failed, events = sum(part.failed for part in parts), sum(part.events for part in parts)
    note = f"{sum(part.running for part in parts)} running, {events / took:,.0f} tok/s"
    bar.set_postfix_str(note + (f", {failed} failed" if failed else ""), refresh=False)
    bar.update(sum(part.done for part in parts) - bar.n)
