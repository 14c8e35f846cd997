"""The scheduler's process with real channels and rings, and a worker on a thread that takes its time."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from lightllm.base import env
from lightllm.base.config import ServerConfig
from lightllm.base.errors import Closed
from lightllm.base.messages import (
    ClientForgotten,
    ClientLost,
    Connect,
    Flush,
    Flushed,
    Message,
    PlanReady,
    Profile,
    Profiled,
    Progress,
    Ready,
    Requests,
    ResultReady,
    Start,
    Stopped,
    parse_references,
)
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options, RequestTable, TableShape
from lightllm.base.ring import Ring
from lightllm.base.status import Status
from lightllm.base.step import StepPlan, pack, unpack
from lightllm.processes.ipc.channels import Channel
from lightllm.processes.scheduler import Profiling
from lightllm.serving.scheduling.plan import plan_bytes, result_bytes
from tests.serving.scheduling.device import Device, alone

LENGTH, POOL, VOCABULARY = 512, 2000, 64


@dataclass
class SlowWorker:
    """Runs plans as they come, `seconds` each, and looks whether the next one is there when a step ends.

    No step ends while `goes_on` is cleared.
    """

    channel: Channel
    plans: Ring
    results: Ring
    rank: int
    seconds: float
    next_was_ready: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    num_messages: int = 0  # that told it of plans
    others: "list[SlowWorker]" = field(default_factory=list)  # ranks
    goes_on: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        device = Device(pool_tokens=POOL, rows=8, max_length=LENGTH, vocabulary=VOCABULARY)
        try:
            while True:
                message = receive(self.channel)
                assert isinstance(message, PlanReady)
                self.num_messages += 1
                if (place := self.plans.place_to_read(self.rank)) is None:
                    continue  # it is only roused
                plan = unpack(StepPlan, place)
                self.plans.consume(self.rank)
                result = device.run(plan)
                time.sleep(self.seconds)
                self.goes_on.wait()
                self.next_was_ready.append(self.plans.place_to_read(self.rank) is not None)
                self.rows.append(len(plan.rows))
                if self.rank == 0:
                    # Ranks compute together: none ends a step that another has not read.
                    wait_until(lambda: all(len(other.rows) >= len(self.rows) for other in self.others))
                    pack(result, self.results.place_to_write(1))
                    self.results.publish()
                    self.channel.send(ResultReady())
        except Closed:
            return


def receive(channel: Channel, timeout_s: float = 10.0) -> Message:
    """The next message. Fails if none comes in time."""
    readable, _, _ = select.select([channel], [], [], timeout_s)
    assert readable, "a message was expected"
    message = channel.receive()
    assert message is not None
    return message


class House:
    """All that the supervisor gives the scheduler's process, and the processes around it."""

    def __init__(self, *, tp: int = 1, clients: int = 2, seconds: float = 0.0, **settings):
        self.config = ServerConfig(
            tp=tp, running_max_req_size=8, max_req_total_len=LENGTH, **{"batch_max_tokens": 64, **settings}
        )
        self.shape = TableShape.of(clients=clients, records=16, max_length=LENGTH)
        self.memory = {
            "requests": RequestTable.create(self.shape),
            "status": Status.create(),
            "metrics": Metrics.create(1),
            "plans": Ring.create("plans", plan_bytes(self.config, LENGTH)),
            "results": Ring.create("results", result_bytes(self.config, LENGTH)),
        }
        self.table = RequestTable(self.memory["requests"], self.shape)
        self.metrics, self.status = Metrics(self.memory["metrics"], 0), Status(self.memory["status"])
        self.pages = [self.table.client_pages(client) for client in range(clients)]
        self.theirs: dict[str, socket.socket] = {}
        self.control = self.pair("control")
        self.detokenizer = self.pair("detokenizer")
        self.clients = [self.pair(f"client:{client}") for client in range(clients)]
        self.workers = [
            SlowWorker(
                self.pair(f"worker:{rank}"), Ring(self.memory["plans"]), Ring(self.memory["results"]), rank, seconds
            )
            for rank in range(tp)
        ]
        self.workers[0].others = self.workers[1:]
        self.let_workers_go_on()
        self.threads = [threading.Thread(target=worker.run) for worker in self.workers]

    def let_workers_go_on(self) -> None:
        for worker in self.workers:
            worker.goes_on.set()

    def pair(self, name: str) -> Channel:
        ours, self.theirs[name] = Channel.pair()
        return Channel(ours)

    @property
    def start_message(self) -> Start:
        names = [*self.memory, *[name for name in self.theirs if name != "control"]]
        return Start(config=self.config, shape=self.shape, index=0, descriptors=names, pool_tokens=POOL)

    @property
    def descriptors(self) -> list[int]:
        sockets = [end.fileno() for name, end in self.theirs.items() if name != "control"]
        return [*[memory.fd for memory in self.memory.values()], *sockets]

    def ask(self, index: int, prompt: list[int], max_tokens: int) -> tuple[int, int]:
        """Fills a record. Returns its reference."""
        record, pages = self.table.records[index], self.pages[index // self.shape.records]
        record["prompt_page"], record["prompt_length"] = pages.store(np.array(prompt, dtype=np.int32)), len(prompt)
        options = msgspec.msgpack.encode(Options())
        record["options_page"], record["options_bytes"] = pages.store_bytes(options), len(options)
        record["max_tokens"], record["max_tokens_given"], record["num_logprobs"] = max_tokens, True, -1
        record["num_prompt_logprobs"] = -1
        record["generation"] += 1
        return index, int(record["generation"])

    def follow(self, *references: tuple[int, int]) -> int:
        """Reads progress until all these requests have ended. Returns the number of messages that told of any."""
        left, messages = set(references), 0
        while left:
            message = receive(self.detokenizer)
            assert isinstance(message, Progress)
            messages += bool(message.progressed)
            for index, generation in parse_references(message.progressed).tolist():
                assert self.table.records[index]["output_generation"] == generation
                if self.table.records[index]["finish_reason"]:
                    left.discard((index, generation))
        return messages

    def wait_for_progress(self) -> None:
        """Until some request has output."""
        told = Progress()
        while not told.progressed:
            message = receive(self.detokenizer)
            assert isinstance(message, Progress)
            told = message

    def output(self, index: int) -> list[int]:
        return self.table.output(index, 0, int(self.table.records[index]["num_output"]))[:, 0].tolist()

    def __enter__(self) -> "House":
        end = self.theirs["control"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightllm.processes.scheduler", str(end.fileno())],
            pass_fds=[end.fileno()],
            env=env.child_environment(),
        )
        self.control.send(self.start_message, self.descriptors)
        for end in self.theirs.values():
            end.close()
        for thread in self.threads:
            thread.start()
        assert isinstance(receive(self.control), Ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.let_workers_go_on()
        self.control.close()
        assert self.process.wait(timeout=10) == 0
        for thread in self.threads:
            thread.join()
        for channel in (self.detokenizer, *self.clients, *[worker.channel for worker in self.workers]):
            channel.close()
        for memory in self.memory.values():
            memory.close()

    @property
    def num_switches(self) -> int:
        """How often the process has gone to sleep."""
        return int(self.about_process("voluntary_ctxt_switches"))

    @property
    def is_asleep(self) -> bool:
        return self.about_process("State") == "S"

    def about_process(self, name: str) -> str:
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(line.split()[1] for line in status if line.startswith(f"{name}:"))


def expected(prompt: list[int], max_tokens: int) -> list[int]:
    return alone(prompt, max_tokens=max_tokens, vocabulary=VOCABULARY)


@pytest.mark.parametrize("awake_s", [0.0, 0.02])
def test_requests_are_served_and_what_the_scheduler_knows_is_published(awake_s):
    with House() as house:
        house.status.awake_s = awake_s
        assert (house.status.pool_tokens, house.status.max_request_tokens) == (POOL, LENGTH)
        first, second = house.ask(0, [1, 2, 3], 20), house.ask(16, [4] * 100, 30)
        house.clients[0].send(Requests(submit=[first]))
        house.clients[1].send(Requests(submit=[second]))
        house.follow(first, second)
        assert house.output(0) == expected([1, 2, 3], 20)
        assert house.output(16) == expected([4] * 100, 30)
        assert house.metrics.total("generated_tokens") == 50


def test_the_next_plan_lies_in_the_ring_before_a_step_ends():
    with House(seconds=0.02) as house:
        references = [house.ask(index, [index] * 5, 40) for index in range(4)]
        house.clients[0].send(Requests(submit=references))
        messages = house.follow(*references)
        ready, rows = house.workers[0].next_was_ready, house.workers[0].rows
        assert ready == [True] * (len(ready) - 1) + [False], "but after the last step"
        assert len(rows) == 40, "as all lengths are known there is no wasted row"
        assert messages <= len(rows), "one message a step, however many requests progress"


def test_every_rank_is_told_of_every_plan():
    with House(tp=2) as house:
        reference = house.ask(0, [1, 2, 3], 30)
        house.clients[0].send(Requests(submit=[reference]))
        house.follow(reference)
    assert [len(worker.rows) for worker in house.workers] == [30, 30]


@pytest.mark.parametrize("awake_s", [0.0, 0.02])
def test_an_idle_scheduler_sleeps(awake_s):
    with House() as house:
        house.status.awake_s = awake_s
        reference = house.ask(0, [1, 2, 3], 30)
        house.clients[0].send(Requests(submit=[reference]))
        house.follow(reference)
        time.sleep(0.1)
        wait_until(lambda: house.is_asleep)
        before = house.num_switches
        time.sleep(0.3)
        assert house.num_switches - before <= 1
        assert house.is_asleep


@pytest.mark.parametrize("awake_s", [0.0, 0.02])
def test_workers_are_roused_before_a_first_step_if_processes_look_for_news(awake_s):
    with House() as house:
        house.status.awake_s = awake_s
        worker = house.workers[0]
        worker.goes_on.clear()
        first, second = house.ask(0, [1, 2, 3], 2), house.ask(1, [4], 2)
        house.clients[0].send(Requests(submit=[first]))
        wait_until(lambda: house.metrics.total("batch_current_size") == 1)
        house.clients[0].send(Requests(submit=[second]))  # workers have something to do
        worker.goes_on.set()
        house.follow(first, second)
    assert worker.num_messages - len(worker.rows) == bool(awake_s)


def test_a_stop_string_and_a_release_end_requests():
    with House(seconds=0.01) as house:
        stopped, released = house.ask(0, [1], 400), house.ask(1, [2], 400)
        house.clients[0].send(Requests(submit=[stopped, released]))
        house.wait_for_progress()
        house.detokenizer.send(Stopped([stopped]))
        house.follow(stopped)
        assert house.table.records[0]["finish_reason"] == FinishReason.STOP
        house.clients[0].send(Requests(release=[stopped, released]))
        assert set(released_references(house, number=2)) == {stopped, released}
        wait_until(lambda: house.metrics.total("batch_current_size") == 0)
        assert house.metrics.total("kv_slots_used") == 0


def test_prefixes_are_forgotten_on_demand_but_not_those_that_run():
    with House() as house:
        done, runs = house.ask(0, [1, 2, 3], 20), house.ask(16, [4] * 100, 30)
        house.clients[0].send(Requests(submit=[done]))
        house.follow(done)
        wait_until(lambda: house.metrics.total("kv_slots_cached") > 0)
        known = house.metrics.total("kv_slots_cached")
        house.workers[0].goes_on.clear()
        house.clients[1].send(Requests(submit=[runs]))
        wait_until(lambda: house.metrics.total("kv_slots_used") > 0)
        for expected_tokens in (known, 0):
            house.clients[0].send(Flush())
            assert receive(house.clients[0]) == Flushed(expected_tokens)
        house.let_workers_go_on()
        house.follow(runs)
        assert house.output(16) == expected([4] * 100, 30)


def test_time_is_up_whatever_the_workers_do():
    with House() as house:
        house.workers[0].goes_on.clear()
        reference = house.ask(0, [1], 400)
        house.table.records[0]["timeout_s"] = 0.05
        house.clients[0].send(Requests(submit=[reference]))
        house.follow(reference)
        assert house.table.records[0]["finish_reason"] == FinishReason.TIMEOUT
        assert not house.workers[0].rows, "no step has ended yet"


def test_clients_see_how_much_waits():
    with House(seconds=0.01) as house:
        references = [house.ask(index, [index] * 5, 60) for index in range(11)]
        house.clients[0].send(Requests(submit=references))
        wait_until(lambda: (house.status.waiting_requests, house.status.waiting_tokens) == (3, 15))
        house.clients[0].send(Requests(release=references))
        wait_until(lambda: house.status.waiting_requests == 0)


def test_a_record_is_released_and_used_again_in_one_message():
    with House(seconds=0.01) as house:
        first = house.ask(0, [1], 400)
        house.clients[0].send(Requests(submit=[first]))
        house.wait_for_progress()
        second = house.ask(0, [2], 5)
        house.clients[0].send(Requests(submit=[second], release=[first]))
        while house.table.records[0]["output_generation"] != second[1]:
            receive(house.detokenizer)
        house.follow(second)
        assert house.output(0) == expected([2], 5)


def test_a_lost_client_is_forgotten_and_its_successor_served():
    with House(seconds=0.005) as house:
        theirs, other = house.ask(0, [1], 400), house.ask(16, [2], 60)
        house.clients[0].send(Requests(submit=[theirs]))
        house.clients[1].send(Requests(submit=[other]))
        house.wait_for_progress()
        house.clients[0].close()
        house.control.send(ClientLost(0))
        assert receive(house.control) == ClientForgotten(0)
        assert released_references(house, number=1) == [theirs]
        ours, end = Channel.pair()
        house.control.send(Connect("client:0"), [end.fileno()])
        end.close()
        house.clients[0] = Channel(ours)
        again = house.ask(0, [3], 10)
        house.clients[0].send(Requests(submit=[again]))
        house.follow(again)
        assert house.output(0) == expected([3], 10)
        wait_until(lambda: house.table.records[16]["finish_reason"] != 0)
        assert house.output(16) == expected([2], 60)


def test_the_process_ends_when_a_worker_is_gone():
    with House() as house:
        reference = house.ask(0, [1], 5)
        house.clients[0].send(Requests(submit=[reference]))
        house.follow(reference)
        with socket.socket(fileno=os.dup(house.workers[0].channel.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        assert house.process.wait(timeout=10) == 0


def released_references(house: House, *, number: int) -> list[tuple[int, int]]:
    """The next `number` references that the detokenizer is told to forget."""
    released: list[tuple[int, int]] = []
    while len(released) < number:
        message = receive(house.detokenizer)
        assert isinstance(message, Progress)
        released += [(index, generation) for index, generation in parse_references(message.released).tolist()]
    return released


def wait_until(holds, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_ranks_are_told_to_profile_and_answer_as_one():
    ends = [[Channel(end) for end in Channel.pair()] for _ in range(4)]
    (first, his), (second, hers), *workers = ends
    profiling = Profiling([mine for mine, _ in workers])
    profiling.order(first, Profile(starts=False))
    assert [its.receive() for _, its in workers] == [Profile(starts=False)] * 2
    profiling.order(second, Profile(starts=True))
    assert "another order" in hers.receive().failure
    assert [its.receive() for _, its in workers] == [None, None]
    profiling.take(Profiled(["a"]))
    assert his.receive() is None
    profiling.take(Profiled(["b"], "full"))
    assert his.receive() == Profiled(["a", "b"], "full")
    profiling.order(second, Profile(starts=True))
    assert [its.receive() for _, its in workers] == [Profile(starts=True)] * 2
    for end in (end for pair in ends for end in pair):
        end.close()
