"""The process that runs the model on one device: plans come in, what they sampled goes out."""

import select
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from lightllm.base.errors import EngineDeadError
from lightllm.base.messages import Loading, PlanReady, Ready, ResultReady
from lightllm.base.ring import Ring
from lightllm.base.step import StepPlan, StepResult, pack, unpack
from lightllm.processes import child
from lightllm.processes.channels import Channel

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

_MEETING_TIMEOUT_S = 600.0  # ranks load at their own pace


class Runner(Protocol):
    """What computes the steps; a test may put something around the real one."""

    def step(self, plan: StepPlan) -> StepResult: ...


def serve(me: child.Child, runner: Runner) -> None:
    """Runs plans until the scheduler is gone: then raises Closed. Rank 0 answers for all ranks."""
    plans, results, rank = Ring(me.memory("plans")), Ring(me.memory("results")), me.start.index
    with closing(me.channel("scheduler")) as scheduler:
        while True:
            result = _run(runner, _next_plan(plans, scheduler, rank))
            result.next_was_ready = plans.place_to_read(rank) is not None
            if rank == 0:
                pack(result, results.place_to_write(readers=1))
                results.publish()
                scheduler.send(ResultReady())
                me.metrics.add("steps_run")
                me.metrics.add("steps_overlapped", result.next_was_ready)
                me.metrics.add("step_seconds", result.seconds)


def _next_plan(plans: Ring, scheduler: Channel, rank: int) -> StepPlan:
    """Waits for the next plan in the ring. A message only says that there may be one."""
    while True:
        while (message := scheduler.receive()) is not None:
            assert isinstance(message, PlanReady), "the scheduler only says that there is a plan"
        if (place := plans.place_to_read(rank)) is not None:
            plan = unpack(StepPlan, place)
            plans.consume(rank)
            return plan
        select.select([scheduler], [], [])


def _run(runner: Runner, plan: StepPlan) -> StepResult:
    try:
        return runner.step(plan)
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
    from lightllm.compute.execution.runner import Runner

    def show(done: int, total: int) -> None:
        me.control.send(Loading(done, total))

    me.metrics.clear()
    runner = Runner(me.start.config, rank=me.start.index, store=_store(me), progress=show)
    me.control.send(Ready(pool_tokens=runner.pool_tokens, memory=runner.memory))
    serve(me, runner)


if __name__ == "__main__":
    child.run("worker", main)
