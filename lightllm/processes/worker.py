"""The process that runs the model on one device: plans come in, what they sampled goes out."""

import select
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from lightllm.base import log
from lightllm.base.errors import EngineDeadError
from lightllm.base.messages import Loading, PlanReady, Profile, Profiled, Ready, ResultReady
from lightllm.base.ring import Ring
from lightllm.base.step import StepPlan, StepResult, pack, unpack
from lightllm.processes import child
from lightllm.processes.channels import Channel

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

_log = log.get(__name__)
_MEETING_TIMEOUT_S = 600.0  # ranks load at their own pace
_MOST_LAUNCHED = 2  # steps: the one that the device computes and the one after it
_LOOK_EVERY_S = 50e-6  # whether the device has ended a step, while a plan may still come


class Launched(Protocol):
    """A step that the device computes."""

    def is_ready(self) -> bool: ...

    def result(self) -> StepResult: ...


class Runner(Protocol):
    """What computes the steps; a test may put something around the real one."""

    def launch(self, plan: StepPlan) -> Launched: ...


class Profiler(Protocol):
    """What traces steps; a worker without one refuses to."""

    def why_not(self, *, starts: bool) -> str | None: ...

    def start(self) -> None: ...

    def stop(self) -> str: ...

    def step(self, plan: StepPlan) -> AbstractContextManager[None]: ...


class Tracing:
    """The profiler, if there is one, and what the scheduler wants of it."""

    def __init__(self, profiler: Profiler | None = None):
        self._profiler = profiler

    def obey(self, message: Profile) -> Profiled:
        if self._profiler is None:
            return Profiled(failure="the worker runs without --profile_dir")
        if reason := self._profiler.why_not(starts=message.starts):
            return Profiled(failure=reason)
        if message.starts:
            self._profiler.start()
            return Profiled()
        try:
            return Profiled([self._profiler.stop()])
        except OSError as error:
            return Profiled(failure=f"the trace could not be written: {error}")

    def step(self, plan: StepPlan) -> AbstractContextManager[None]:
        return nullcontext() if self._profiler is None else self._profiler.step(plan)


def serve(me: child.Child, runner: Runner, profiler: Profiler | None = None) -> None:
    """Runs plans until the scheduler is gone: then raises Closed. Rank 0 answers for all ranks.

    A plan that comes while the device computes the one before is launched at once, so that the device need not wait.
    """
    plans, results, rank = Ring(me.memory("plans")), Ring(me.memory("results")), me.start.index
    launched: deque[Launched] = deque()
    tracing = Tracing(profiler)
    with closing(me.channel("scheduler")) as scheduler:
        while True:
            if not launched or (len(launched) < _MOST_LAUNCHED and not launched[0].is_ready()):
                timeout_s = _LOOK_EVERY_S if launched else None
                plan = _next_plan(plans, scheduler, rank, tracing, timeout_s=timeout_s)
                if plan is not None:
                    with _other_ranks(), tracing.step(plan):
                        launched.append(runner.launch(plan))
                continue
            with _other_ranks():
                result = launched.popleft().result()
            result.next_was_ready = bool(launched) or plans.place_to_read(rank) is not None
            if rank == 0:
                me.metrics.add("steps_run")
                me.metrics.add("steps_overlapped", result.next_was_ready)
                me.metrics.add("step_seconds", result.seconds)
                pack(result, results.place_to_write(readers=1))
                results.publish()
                scheduler.send(ResultReady())


def _next_plan(
    plans: Ring, scheduler: Channel, rank: int, tracing: Tracing, *, timeout_s: float | None
) -> StepPlan | None:
    """Waits for the next plan in the ring, or for `timeout_s` at most. A message only says that there may be one."""
    while True:
        while (message := scheduler.receive()) is not None:
            if isinstance(message, Profile):
                scheduler.send(tracing.obey(message))
            else:
                assert isinstance(message, PlanReady), "the scheduler says nothing else"
        if (place := plans.place_to_read(rank)) is not None:
            plan = unpack(StepPlan, place)
            plans.consume(rank)
            return plan
        if not select.select([scheduler], [], [], timeout_s)[0]:
            return None


@contextmanager
def _other_ranks() -> Iterator[None]:
    """Says what an error means that only tells that another rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error) and type(error).__name__ != "DistBackendError":
            raise
        # Which one, and why, the supervisor knows.
        raise EngineDeadError("a step could not be finished because another rank is gone") from error


def _store(me: child.Child) -> "TCPStore | None":
    """Where ranks meet: rank 0 serves it on the socket that it was given, the others connect."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    ranks, port, timeout = me.start.config.tp, me.start.store_port, timedelta(seconds=_MEETING_TIMEOUT_S)
    if ranks == 1:
        return None
    if me.start.index == 0:
        listener = me.descriptors["store"]
        return TCPStore("127.0.0.1", port, ranks, True, timeout, wait_for_workers=False, master_listen_fd=listener)
    return TCPStore("127.0.0.1", port, ranks, False, timeout, wait_for_workers=False)


def main(me: child.Child) -> None:
    from lightllm.compute.execution.profiler import Profiler
    from lightllm.compute.execution.runner import Runner

    def show(done: int, total: int) -> None:
        me.control.send(Loading(done, total))

    def compiled(kernel: str) -> None:
        me.metrics.add("kernels_compiled_after_start")
        _log.warning("kernel %s was compiled while requests waited; please report what they asked for", kernel)

    me.metrics.clear()
    folder = me.start.config.profile_dir
    profiler = Profiler(folder, me.start.index) if folder else None
    runner = Runner(me.start.config, rank=me.start.index, store=_store(me), progress=show)
    runner.tell_of_compiling(compiled)
    me.control.send(Ready(pool_tokens=runner.pool_tokens, memory=runner.memory))
    serve(me, runner, profiler)


if __name__ == "__main__":
    child.run("worker", main)
