"""Compiled grammars by their content. They are compiled in threads, within limits: a hostile one hurts its sender."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from lightllm.base.errors import RequestError
from lightllm.base.grammar import decode
from lightllm.serving.grammar.engine import LONGEST_S, Compiled, Engine, HopelessError, UnenforceableError

_HOPELESS_S = 60.0  # after which a compilation that nobody waits for has lost its thread for good
_THREADS = 2
_MOST_KEPT = 256  # grammars and refusals
_MOST_BYTES = 1 << 30  # of these, all together


@dataclass(frozen=True)
class Refusal:
    """Why there is no compiled grammar."""

    reason: str
    is_ours: bool = False  # the engine cannot be had at all


Outcome = Compiled | Refusal
Then = Callable[[Outcome], None]


@dataclass
class _Job:
    then: list[Then] = field(default_factory=list)
    started: float | None = None  # time.monotonic(), when a thread had time for it
    is_given_up: bool = False


class Library:
    """`want`, `take_finished` and `expire` are called by one thread; `wake` by any, when there is something to take."""

    def __init__(
        self, load: Callable[[], Engine], *, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ):
        self._load, self._wake, self._clock = load, wake, clock
        self._loading = threading.Lock()
        self.engine: Engine | None = None
        self._threads = ThreadPoolExecutor(_THREADS, "compile")
        self._known: OrderedDict[bytes, Outcome] = OrderedDict()
        self._num_bytes = 0  # of all that are known
        self._jobs: dict[bytes, _Job] = {}
        self._finished: list[tuple[bytes, Future[Outcome]]] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._jobs)

    def want(self, source: bytes, then: Then) -> None:
        """Calls `then` with the compiled grammar or why there is none: at once, or from `take_finished` or `expire`."""
        if (outcome := self._known.get(source)) is not None:
            self._known.move_to_end(source)
            then(outcome)
            return
        if source not in self._jobs:
            self._jobs[source] = job = _Job()
            future = self._threads.submit(self._compile, source, job)
            future.add_done_callback(lambda future: self._note(source, future))
        self._jobs[source].then.append(then)

    def take_finished(self) -> None:
        """Tells those who wait what has come of their grammars."""
        finished, self._finished = self._finished, []
        for source, future in finished:
            job = self._jobs.pop(source)
            if not job.is_given_up:
                self._settle(source, job, future.result())

    def expire(self) -> None:
        """Refuses what takes too long. Raises HopelessError if a thread is lost with it."""
        now = self._clock()
        for source, job in self._jobs.items():
            seconds = 0.0 if job.started is None else now - job.started
            if seconds > LONGEST_S and not job.is_given_up:
                job.is_given_up = True
                self._settle(source, job, Refusal(f"it took longer than {LONGEST_S:g} s to compile; make it simpler"))
            if seconds > _HOPELESS_S:
                raise HopelessError(f"a grammar of {len(source)} bytes is still being compiled after {seconds:.0f} s")

    def _settle(self, source: bytes, job: _Job, outcome: Outcome) -> None:
        if not (isinstance(outcome, Refusal) and outcome.is_ours):
            self._known[source] = outcome
            self._num_bytes += _bytes_of(outcome)
        while len(self._known) > _MOST_KEPT or self._num_bytes > _MOST_BYTES:
            self._num_bytes -= _bytes_of(self._known.popitem(last=False)[1])
        waiting, job.then = job.then, []
        for then in waiting:
            then(outcome)

    def _note(self, source: bytes, future: Future[Outcome]) -> None:
        self._finished.append((source, future))
        self._wake()

    def _compile(self, source: bytes, job: _Job) -> Outcome:
        with self._loading:
            if self.engine is None:
                try:
                    self.engine = self._load()
                except Exception as error:  # libraries raise anything; it is told to whoever asked
                    return Refusal(f"grammars cannot be enforced here: {error}", is_ours=True)
        job.started = self._clock()
        try:
            return self.engine.compile(decode(source))
        except (UnenforceableError, RequestError) as error:
            return Refusal(str(error))
        except Exception as error:  # a library's own mistake is no reason to lose the answers of others
            return Refusal(f"the engine failed on it: {type(error).__name__}: {error}"[:500])


def _bytes_of(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, Refusal) else outcome.num_bytes
