"""The process that decides what runs: requests and results come in, plans and progress go out.

One step ahead: while the workers run step n, plan n + 1 lies in the ring. The process sleeps while nothing comes in.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence

from lightllm.base.errors import Closed
from lightllm.base.messages import (
    ClientForgotten,
    ClientLost,
    Connect,
    Flush,
    Flushed,
    PlanReady,
    Profile,
    Profiled,
    Ready,
    Requests,
    ResultReady,
    Stopped,
)
from lightllm.base.ring import Ring
from lightllm.base.step import StepResult, pack, unpack
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel, select_ready
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.serving.scheduling.statistics import Statistics

_MOST_OUTSTANDING = 2  # plans: the one that runs and the one after it
_READER = 0
_LONGEST_WAIT_S = 3600.0  # a deadline may be further off than the system can wait


class Profiling:
    """Passes a client's order to profile on to all workers, and their answers back as one."""

    def __init__(self, workers: Sequence[Channel]):
        self._workers = workers
        self._client: Channel | None = None  # whose order the workers are at
        self._answers: list[Profiled] = []

    def order(self, client: Channel, message: Profile) -> None:
        if self._client is not None:
            client.send(Profiled(failure="another order to profile is being carried out; try again"))
            return
        self._client, self._answers = client, []
        for worker in self._workers:
            worker.send(message)

    def take(self, answer: Profiled) -> None:
        self._answers.append(answer)
        if len(self._answers) < len(self._workers) or self._client is None:
            return
        files = [file for one in self._answers for file in one.files]
        failures = [one.failure for one in self._answers if one.failure]
        with contextlib.suppress(Closed, OSError):  # the client has left meanwhile
            self._client.send(Profiled(files, failures[0] if failures else ""))
        self._client = None


class SchedulerProcess:
    """The channels and rings around a Scheduler."""

    def __init__(self, me: child.Child, scheduler: Scheduler):
        config = me.start.config
        self._scheduler, self._control, self._status = scheduler, me.control, me.status
        self._statistics = None if config.disable_log_stats else Statistics(me.metrics, config.log_stats_interval)
        self._last_result = -math.inf  # when it came, by time.monotonic
        self._plans, self._results = Ring(me.memory("plans")), Ring(me.memory("results"))
        self._detokenizer = me.channel("detokenizer")
        self._workers = [me.channel(f"worker:{rank}") for rank in range(config.tp)]
        self._profiling = Profiling(self._workers)
        self._clients: dict[int, Channel] = {}
        self._lost_clients: list[int] = []
        self._receivers: dict[Channel, Callable[[], None]] = {self._detokenizer: self._receive_stops}
        self._receivers |= {self._control: self._obey} | dict.fromkeys(self._workers, self._receive_results)
        for client in range(me.start.shape.clients):
            self._connect(client, me.channel(f"client:{client}"))

    def run(self) -> None:
        """Serves until the control channel, a worker or the detokenizer is gone: then raises Closed."""
        while True:
            self._receive()
            self._digest()
            self._scheduler.expire()
            self._launch()
            self._report()
            self._status.show_queue(*self._scheduler.queue)

    def _receive(self) -> None:
        """Waits for messages and takes them in, or until the time of some request is up."""
        blocked = [channel for channel in (self._detokenizer, *self._workers) if channel.has_waiting]
        seconds = min(max(0.0, self._scheduler.next_deadline - time.monotonic()), _LONGEST_WAIT_S)
        readable, writable = select_ready(
            list(self._receivers), blocked, timeout_s=seconds, awake_s=self._status.awake_s
        )
        for channel in writable:
            channel.flush()
        for channel in readable:
            if channel in self._receivers:
                self._receivers[channel]()

    def _digest(self) -> None:
        while (place := self._results.place_to_read(_READER)) is not None:
            result = unpack(StepResult, place)
            self._results.consume(_READER)
            self._last_result = time.monotonic()
            self._scheduler.digest(result, on_written=self._tell)

    def _tell(self) -> None:
        if (progress := self._scheduler.drain()) is not None:
            self._detokenizer.send(progress)

    def _report(self) -> None:
        self._tell()
        # Only now, so that the detokenizer hears of the end of these records before that of their next use.
        while self._lost_clients:
            self._control.send(ClientForgotten(self._lost_clients.pop()))
        if self._statistics is not None:
            self._statistics.show()

    def _launch(self) -> None:
        while self._scheduler.num_outstanding < _MOST_OUTSTANDING and (plan := self._scheduler.plan()) is not None:
            pack(plan, self._plans.place_to_write(len(self._workers)))
            self._plans.publish()
            for worker in self._workers:
                worker.send(PlanReady())

    def _receive_results(self) -> None:
        for worker in self._workers:
            while (message := worker.receive()) is not None:
                if isinstance(message, Profiled):
                    self._profiling.take(message)
                else:
                    assert isinstance(message, ResultReady), "else workers only say that there is a result"

    def _receive_stops(self) -> None:
        while (message := self._detokenizer.receive()) is not None:
            assert isinstance(message, Stopped), "the detokenizer only says who has to stop"
            for reference in message.references:
                self._scheduler.stop(*reference)

    def _rouse(self) -> None:
        """Has workers that sleep by now look for the plan which is about to come."""
        is_idle = not self._scheduler.num_outstanding
        if is_idle and time.monotonic() - self._last_result > self._status.awake_s > 0:
            for worker in self._workers:
                worker.send(PlanReady())

    def _receive_requests(self, client: int) -> None:
        try:
            while (message := self._clients[client].receive()) is not None:
                match message:
                    case Profile():
                        self._profiling.order(self._clients[client], message)
                    case Flush():
                        self._clients[client].send(Flushed(self._scheduler.flush_cache()))
                    case Requests(submit, release):
                        if submit:
                            self._rouse()
                        # A record may be released and submitted again in one message, or submitted and released.
                        self._scheduler.submit_samples(submit)
                        for reference in release:
                            self._scheduler.release(*reference)
                    case _:
                        raise AssertionError(f"clients send no {type(message).__name__}")
        except Closed:
            self._disconnect(client)  # the supervisor says what becomes of its requests

    def _obey(self) -> None:
        message, descriptors = self._control.receive_with_descriptors()
        if isinstance(message, ClientLost):
            self._disconnect(message.client)
            self._scheduler.forget_client(message.client)
            self._lost_clients.append(message.client)
        elif isinstance(message, Connect):
            self._connect(int(message.name.removeprefix("client:")), Channel.of_descriptor(descriptors[0]))

    def _connect(self, client: int, channel: Channel) -> None:
        self._disconnect(client)
        self._clients[client] = channel
        self._receivers[channel] = lambda: self._receive_requests(client)

    def _disconnect(self, client: int) -> None:
        if (channel := self._clients.pop(client, None)) is not None:
            del self._receivers[channel]
            channel.close()


def main(me: child.Child) -> None:
    config, pool_tokens = me.start.config, me.start.pool_tokens
    max_length = config.max_req_total_len
    assert max_length is not None, "the supervisor has looked it up"
    me.metrics.clear()
    scheduler = Scheduler(
        config,
        me.table,
        pool_tokens=pool_tokens,
        max_length=max_length,
        metrics=me.metrics,
        ttft_target_s=config.ttft_target_s,
        small_tokens=me.status.graph_tokens,
    )
    me.status.record["pool_tokens"] = pool_tokens
    # The last token of a request needs no slot.
    me.status.record["max_request_tokens"] = min(max_length, pool_tokens + 1)
    process = SchedulerProcess(me, scheduler)
    me.control.send(Ready())
    process.run()


if __name__ == "__main__":
    child.run("scheduler", main)
