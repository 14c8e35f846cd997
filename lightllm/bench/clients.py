"""Client processes: started together, watched together, their reports put together."""

import contextlib
import selectors
import signal
import subprocess
import sys
import threading
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
    interrupted: bool  # so that some requests were never answered, or never sent


def run(works: Sequence[Work], *, num_requests: int, bar: bool, title: str, may_end_early: bool = False) -> Measured:
    """Runs each work in a process of its own. Raises ClientError.

    may_end_early: Ctrl-C ends the work, and what was answered by then is returned if it is anything.
    """
    with contextlib.ExitStack() as resources:
        crew = [_Process(resources, work) for work in works]
        for process in crew:
            assert isinstance(next(process.messages), Ready), "it says this first"
        start = time.perf_counter() + _HEAD_START_S
        for process in crew:
            process.tell(repr(start))
        interrupted = resources.enter_context(_ended_by_interrupt(crew)) if may_end_early else threading.Event()
        with _bar(num_requests, title, is_shown=bar) as progress:
            _watch(crew, progress, start)
    reports = [process.report for process in crew if process.report is not None]
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    if interrupted.is_set() and not outcomes:
        raise KeyboardInterrupt
    return Measured(
        sorted(outcomes, key=lambda outcome: (outcome.conversation, outcome.turn)),
        start,
        max(report.cpu_share for report in reports),
        max(report.lag_p99 for report in reports),
        max(report.lag_max for report in reports),
        interrupted.is_set(),
    )


class _Process:
    def __init__(self, resources: contextlib.ExitStack, work: Work):
        self._popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightllm.bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env.child_environment(),
            process_group=0,  # Ctrl-C on a terminal is not for it
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

    def end(self) -> None:
        """Has it report at once."""
        self._in.close()

    def _read(self) -> Iterator[Message]:
        while line := self.out.readline():
            yield _decode(line)
        raise ClientError(f"a client process ended with code {self._popen.wait()}; what it wrote above says why")


@contextlib.contextmanager
def _ended_by_interrupt(crew: list[_Process]) -> Iterator[threading.Event]:
    """The first Ctrl-C has all processes report, and sets the event; another one is as usual."""
    came = threading.Event()

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        came.set()
        for process in crew:
            process.end()

    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _bar(num_requests: int, title: str, *, is_shown: bool) -> tqdm:
    # miniters: what runs is news, too, while no request ends.
    return tqdm(total=num_requests, desc=title, unit="req", disable=not is_shown, smoothing=0, miniters=0)


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
                        process.progress = Progress(done, sum(not o.is_good for o in report.outcomes), 0, report.tokens)
                        selector.unregister(process.out)
                    case Progress() as progress:
                        process.progress = progress
                _show(bar, [process.progress for process in crew], start)


def _show(bar: tqdm, parts: list[Progress], start: float) -> None:
    took = max(time.perf_counter() - start, 1e-3)
    failed, tokens = sum(part.failed for part in parts), sum(part.tokens for part in parts)
    note = f"{sum(part.running for part in parts)} running, {tokens / took:,.0f} tok/s"
    bar.set_postfix_str(note + (f", {failed} failed" if failed else ""), refresh=False)
    bar.update(sum(part.done for part in parts) - bar.n)
