"""What became of a request, and the messages between `lightllm bench serve` and its client processes."""

from typing import Any

import msgspec

from lightllm.bench.datasets import Conversation
from lightllm.bench.options import BackendName


class Outcome(msgspec.Struct, array_like=True):
    """Times are time.perf_counter(), which is the same clock in all processes of a machine."""

    conversation: int
    turn: int
    asked_prompt_tokens: int  # 0: not known beforehand
    asked_output_tokens: int
    start: float  # when the request was handed to the system
    times: list[float] = []  # of arrival of each event that brought output
    prompt_tokens: int = 0  # as the server counts
    output_tokens: int = 0  # as well, but see `counts_events`
    cached_tokens: int | None = None  # not every server says so
    text: str = ""
    error: str = ""
    end: float = 0.0  # when the answer was complete, or the error there
    counts_events: bool = False  # the server has not said how many tokens there are, so each event counts as one

    @property
    def is_good(self) -> bool:
        return not self.error

    @property
    def ttft(self) -> float:
        return self.times[0] - self.start

    @property
    def e2el(self) -> float:
        return self.times[-1] - self.start

    @property
    def tpot(self) -> float | None:
        """Seconds a token after the first; None if there is only one."""
        return (self.times[-1] - self.times[0]) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itls(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


class Work(msgspec.Struct):
    """To a client process: what to send, how and when. due: seconds after the start, one for each conversation."""

    url: str
    path: str
    headers: dict[str, str]
    backend: BackendName
    model: str
    sampling: dict[str, float | int | bool | None]
    max_concurrency: int | None
    numbers: list[int]  # of the conversations, among all
    due: list[float]
    conversations: list[Conversation]
    keeps_text: bool
    extra: dict[str, Any] = {}  # more fields of each request


class Ready(msgspec.Struct, tag=True):
    """From a client process: waits for the line that says when to start."""


class Progress(msgspec.Struct, tag=True):
    """From a client process, several times a second: so many requests ended, failed, run; so many tokens came.

    While an answer runs each of its events counts as a token; its end says how many there really were.
    """

    done: int
    failed: int
    running: int
    tokens: int


class Report(msgspec.Struct, tag=True):
    """From a client process, at its end. cpu_share: of one core, while requests ran; lag: of its event loop, s."""

    outcomes: list[Outcome]
    tokens: int
    cpu_share: float
    lag_p99: float
    lag_max: float


Message = Ready | Progress | Report
