"""The process that runs the model on one device: plans come in, what they sampled goes out."""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from lightllm.base import log
from lightllm.base.errors import EngineDeadError
from lightllm.base.masks import MaskMemory
from lightllm.base.messages import Loading, PlanReady, Profile, Profiled, Ready, ResultReady
from lightllm.base.ring import Ring
from lightllm.base.step import StepPlan, StepResult, pack, unpack
from lightllm.processes.ipc import awake, child
from lightllm.processes.ipc.channels import select_ready
from lightllm.processes.ipc.mask_makers import MaskMakers
from lightllm.serving.scheduling.plan import StepLimits

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    from lightllm.compute.execution.grammar_masks import GrammarMasks

_log = log.get(__name__)
_MEETING_TIMEOUT_S = 600.0  # ranks load at their own pace
_MOST_LAUNCHED = 2  # steps: the one that the device computes and the one after it


class Launched(Protocol):
    """A step that the device computes."""

    def is_ready(self) -> bool: ...

    def result(self) -> StepResult: ...


class Runner(Protocol):
    """What computes the steps; a test may put something around the real one."""

    def launch(self, plan: StepPlan) -> Launched: ...

    def use_masks(self, masks: "GrammarMasks") -> None: ...


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


class Steps:
    """Plans of the scheduler's on their way through the device. Rank 0 answers for all ranks."""

    def __init__(self, me: child.Child, runner: Runner):
        self._runner, self._metrics, self.rank = runner, me.metrics, me.start.index
        self.plans, self._results = Ring(me.memory("plans")), Ring(me.memory("results"))
        self.scheduler, self._status = me.channel("scheduler"), me.status
        self._launched: deque[Launched] = deque()
        self._masks: GrammarMasks | None = None
        if "grammar" in me.descriptors:
            self._masks = _masks(me, catch_up=self._catch_up)
            runner.use_masks(self._masks)

    @property
    def has_room(self) -> bool:
        """Whether another one may be launched."""
        return not self._launched or (len(self._launched) < _MOST_LAUNCHED and not self._launched[0].is_ready())

    def wait(self) -> None:
        """Until the scheduler says something; at once while the device computes, as to be woken takes too long."""
        if not self._launched:
            select_ready([self.scheduler], [], awake_s=self._status.awake_s)

    def launch(self, plan: StepPlan) -> None:
        with _other_ranks():
            self._launched.append(self._runner.launch(plan))

    def finish(self, *, next_is_there: bool = False) -> None:
        """Waits for the oldest step and tells the scheduler what it has sampled."""
        with _other_ranks():
            result = self._launched.popleft().result()
        result.next_was_ready = next_is_there or bool(self._launched) or self.plans.place_to_read(self.rank) is not None
        if self._masks is not None:
            self._masks.note(result)
        if self.rank == 0:
            pack(result, self._results.place_to_write(readers=1))
            self._results.publish()
            self.scheduler.send(ResultReady())
            self._metrics.add("steps_run")
            self._metrics.add("steps_overlapped", result.next_was_ready)
            self._metrics.add("step_seconds", result.seconds)

    def _catch_up(self) -> None:
        while self._launched:
            self.finish(next_is_there=True)


def serve(me: child.Child, runner: Runner, profiler: Profiler | None = None) -> None:
    """Runs plans until the scheduler is gone: then raises Closed.

    A plan that comes while the device computes the one before is launched at once, so that the device need not wait.
    """
    steps, tracing = Steps(me, runner), Tracing(profiler)
    with closing(steps.scheduler):
        while True:
            if not steps.has_room:
                steps.finish()
                continue
            if (plan := _next_plan(steps, tracing)) is None:
                steps.wait()
                continue
            with tracing.step(plan):
                steps.launch(plan)


def _masks(me: child.Child, *, catch_up: Callable[[], None]) -> "GrammarMasks":
    from lightllm.compute.execution.grammar_masks import GrammarMasks

    config = me.start.config
    assert config.max_req_total_len is not None, "the supervisor has looked it up"
    lines = StepLimits.of(config, config.max_req_total_len).rows
    memory = MaskMemory(me.memory("masks"), lines=lines, vocab=me.start.vocab)
    return GrammarMasks(
        lines, memory, MaskMakers(me), timeout_s=config.mask_timeout_s, metrics=me.metrics, catch_up=catch_up
    )


def _next_plan(steps: Steps, tracing: Tracing) -> StepPlan | None:
    """The next plan, if there is one. A message only says that there may be."""
    while (message := steps.scheduler.receive()) is not None:
        if isinstance(message, Profile):
            steps.scheduler.send(tracing.obey(message))
        else:
            assert isinstance(message, PlanReady), "the scheduler says nothing else"
    if (place := steps.plans.place_to_read(steps.rank)) is None:
        return None
    plan = unpack(StepPlan, place)
    steps.plans.consume(steps.rank)
    return plan


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
    gc.disable()  # what is made while it starts stays; to look for garbage in it takes half a second
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
    gc.freeze()
    gc.enable()
    if me.start.index == 0:
        me.status.awake_s = awake.seconds(me.start.config, is_on_gpu=runner.is_on_gpu, cores=awake.available_cores())
        me.status.graph_tokens = runner.graph_tokens
    me.control.send(Ready(pool_tokens=runner.pool_tokens, memory=runner.memory))
    serve(me, runner, profiler)


if __name__ == "__main__":
    child.run("worker", main)
