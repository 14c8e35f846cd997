"""Workers as processes of their own, between a supervisor and a scheduler that the test plays."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lightllm.base.config import ServerConfig
from lightllm.base.env import child_environment
from lightllm.base.errors import Closed
from lightllm.base.messages import Failed, Loading, PlanReady, Ready, ResultReady, Start
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.ring import Ring
from lightllm.base.status import Status
from lightllm.base.step import StepPlan, StepResult, pack, unpack
from lightllm.compute.execution.runner import Runner
from lightllm.processes import worker
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel
from tests.compute.execution import checkpoint
from tests.compute.execution.plans import Run, decodes, plan

SHAPE = TableShape(clients=1, records=4, prompt_pages=4, output_pages=4, text_pages=4)
TIMEOUT_S = 60


@dataclass
class Engine:
    """What supervisor and scheduler hold of an engine of `ranks` workers."""

    ranks: int
    descriptors: dict[str, int]  # that all workers get
    plans: Ring
    results: Ring
    metrics: Metrics
    controls: list[Channel] = field(default_factory=list)
    schedulers: list[Channel] = field(default_factory=list)

    def start(self, step: StepPlan) -> None:
        pack(step, self.plans.place_to_write(self.ranks))
        self.plans.publish()
        for channel in self.schedulers:
            with contextlib.suppress(Closed):
                channel.send(PlanReady())

    def result(self) -> StepResult:
        assert isinstance(wait(self.schedulers[0]), ResultReady)
        place = self.results.place_to_read(0)
        assert place is not None, "a result is written before it is told of"
        self.results.consume(0)
        return unpack(StepResult, place)

    def close(self) -> None:
        for channel in (*self.controls, *self.schedulers):
            channel.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def run(self, step: StepPlan) -> StepResult:
        self.start(step)
        return self.result()


def wait(channel):
    """The channel's next message. Raises Closed."""
    end = time.monotonic() + TIMEOUT_S
    while (message := channel.receive()) is None:
        assert time.monotonic() < end, "no message came"
        time.sleep(0.001)
    return message


def until_ready(channel):
    """Messages up to the one that says whether the start went well."""
    messages = [wait(channel)]
    while isinstance(messages[-1], Loading):
        messages.append(wait(channel))
    return messages


def prepare(ranks):
    """An engine without workers."""
    memories = {
        "requests": RequestTable.create(SHAPE),
        "status": Status.create(),
        "metrics": Metrics.create(ranks),
        "plans": Ring.create("plans", 1 << 16),
        "results": Ring.create("results", 1 << 16),
    }
    plans, results = Ring(memories["plans"]), Ring(memories["results"])
    descriptors = {name: memory.fd for name, memory in memories.items()}
    return Engine(ranks, descriptors, plans, results, Metrics(memories["metrics"], 0))


def introduce(engine, config, *, store=None):
    """Adds a worker's channels to the engine; returns its end of the control channel, where Start waits."""
    rank = len(engine.controls)
    (control, its_control), (scheduler, its_scheduler) = Channel.pair(), Channel.pair()
    named = {**engine.descriptors, "scheduler": its_scheduler.fileno()}
    if rank == 0 and store is not None:
        named["store"] = store.fileno()
    port = store.getsockname()[1] if store is not None else 0
    start = Start(config, SHAPE, rank, list(named), metrics_block=rank, store_port=port)
    engine.controls.append(Channel(control))
    engine.schedulers.append(Channel(scheduler))
    engine.controls[-1].send(start, list(named.values()))
    its_scheduler.close()
    return its_control


def server_config(directory, **others):
    values = {"model_dir": str(directory), "max_total_token_num": 500, "running_max_req_size": 8, "device": "cpu"}
    return ServerConfig(**{**values, **others})


@contextlib.contextmanager
def running(config):
    """An engine whose workers are processes."""
    engine = prepare(config.tp)
    store = socket.create_server(("127.0.0.1", 0))
    processes = []
    for _ in range(config.tp):
        with introduce(engine, config, store=store if config.tp > 1 else None) as control:
            command = [sys.executable, "-m", "lightllm.processes.worker", str(control.fileno())]
            environment = child_environment()
            processes.append(
                subprocess.Popen(
                    command, pass_fds=[control.fileno()], env=environment, stderr=subprocess.PIPE, text=True
                )
            )
    store.close()
    try:
        yield engine, processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        engine.close()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    checkpoint.make(folder)
    return folder


def prompts():
    generator = np.random.default_rng(0)
    return [generator.integers(0, checkpoint.VOCABULARY, length).tolist() for length in (9, 21, 4)]


def steps():
    """Three requests: greedy, seeded, and with everything; one joins late; then all decode."""
    begins = [
        {"temperature": 0.0},
        {"temperature": 0.9, "seed": 7, "num_logprobs": 2},
        {"temperature": 1.1, "top_p": 0.9, "top_k": 30, "repetition_penalty": 1.2, "seed": 9},
    ]
    first, second, third = (
        Run(row, 0, tokens, range(row * 100, row * 100 + len(tokens)), begins={**chosen, "prompt_length": len(tokens)})
        for row, (tokens, chosen) in enumerate(zip(prompts(), begins, strict=True))
    )
    yield plan(first, second, step=0)
    yield plan(third, step=1)
    for i in range(8):
        starts = [len(tokens) + i for tokens in prompts()]
        yield decodes(range(3), starts, [row * 100 + start for row, start in enumerate(starts)], step=2 + i)


@pytest.mark.parametrize("ranks", [1, 2])
def test_worker_processes_compute_what_a_runner_does(directory, ranks):
    alone = Runner(server_config(directory))
    torch.set_num_threads(1)
    expected = [alone.step(step) for step in steps()]
    with running(server_config(directory, tp=ranks)) as (engine, processes):
        for control in engine.controls:
            *loading, ready = until_ready(control)
            assert isinstance(ready, Ready), ready
            assert ready.pool_tokens == 500
            assert [name.partition(",")[0] for name, _ in ready.memory] == ["weights", "KV pool"]
            assert loading[-1].done == loading[-1].total == ready.memory[0][1]
        for step, wanted in zip(steps(), expected, strict=True):
            got = engine.run(step)
            assert got.step == wanted.step
            assert got.tokens.tolist() == wanted.tokens.tolist()
            np.testing.assert_allclose(got.logprobs, wanted.logprobs, atol=1e-4)
            assert got.top_tokens.tolist() == wanted.top_tokens.tolist()
        assert engine.metrics.total("steps_run") == len(expected)
        assert engine.metrics.total("step_seconds") > 0
        for control in engine.controls:
            control.close()
        assert [process.wait(10) for process in processes] == [0] * ranks
        assert not any("Traceback" in process.stderr.read() for process in processes)


def test_a_worker_ends_with_its_scheduler(directory):
    with running(server_config(directory)) as (engine, (process,)):
        until_ready(engine.controls[0])
        engine.schedulers[0].close()
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_a_rank_says_that_another_one_is_gone(directory):
    with running(server_config(directory, tp=2)) as (engine, processes):
        for control in engine.controls:
            until_ready(control)
        engine.run(next(iter(steps())))
        os.kill(processes[1].pid, signal.SIGKILL)
        processes[1].wait(10)
        engine.start(plan(Run(0, 0, [1, 2, 3], [4, 5, 6])))
        last = wait(engine.controls[0])
        assert isinstance(last, Failed)
        assert "another rank is gone" in last.reason
        assert processes[0].wait(10) == 1
        assert "Traceback" not in processes[0].stderr.read()


def without_a_tensor(source, target):
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = load_file(target / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, target / "model.safetensors")


def test_a_start_that_cannot_be_is_explained_in_one_line(directory, tmp_path):
    without_a_tensor(directory, tmp_path)
    began = time.monotonic()
    with running(server_config(tmp_path)) as (engine, (process,)):
        last = until_ready(engine.controls[0])[-1]
        assert isinstance(last, Failed)
        assert "model.layers.1.self_attn.k_proj.weight" in last.reason
        assert "\n" not in last.reason
        assert process.wait(10) == 1
        assert process.stderr.read() == ""
    assert time.monotonic() - began < 30


@dataclass
class Nothing:
    """A step that samples nothing and ends at a time."""

    plan: StepPlan
    end: float
    runner: "Stretched"

    def is_ready(self) -> bool:
        return time.monotonic() >= self.end

    def result(self) -> StepResult:
        time.sleep(max(self.end - time.monotonic(), 0))
        self.runner.log.append(("ended", self.plan.step))
        none, tokens = np.zeros((0, 0), np.int32), np.full(len(self.plan.rows), -1, np.int32)
        return StepResult(self.plan.step, tokens, np.zeros(0, np.float32), none, none.astype(np.float32), 0.5, False)


class Stretched:
    """A runner that takes its time: in `launch` as a CPU does, or afterwards as a device of its own."""

    def __init__(self, seconds: float, *, is_device: bool = False):
        self.seconds, self.is_device, self.log, self.end = seconds, is_device, [], 0.0

    def launch(self, plan: StepPlan) -> Nothing:
        self.log.append(("launched", plan.step))
        self.end = max(self.end, time.monotonic()) + self.seconds
        launched = Nothing(plan, self.end, self)
        if not self.is_device:
            time.sleep(self.seconds)
        return launched


@contextlib.contextmanager
def stretched(*, is_device):
    """An engine whose worker is a thread that runs steps of 20 ms."""
    engine = prepare(1)
    its_control = introduce(engine, server_config(""))
    runner, me = Stretched(0.02, is_device=is_device), child.receive_start(Channel(its_control))

    def serve():
        with contextlib.suppress(Closed):
            worker.serve(me, runner)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield engine, runner
    finally:
        engine.schedulers[0].close()
        thread.join(10)
        its_control.close()
        engine.close()
    assert not thread.is_alive()


def small(step):
    return plan(Run(0, step, [1], [step]), step=step)


@pytest.mark.parametrize("is_device", [False, True], ids=["on a CPU", "on a device"])
def test_steps_are_counted_as_overlapped_if_the_next_plan_was_there(is_device):
    with stretched(is_device=is_device) as (engine, runner):
        engine.start(small(0))
        for step in range(1, 10):
            engine.start(small(step))
            result = engine.result()
            assert (result.step, result.next_was_ready) == (step - 1, True)
        assert not engine.result().next_was_ready
        assert not engine.run(small(10)).next_was_ready
        assert [step for what, step in runner.log if what == "launched"] == list(range(11))
        assert engine.metrics.total("steps_run") == 11
        assert engine.metrics.total("steps_overlapped") == 9
        assert engine.metrics.total("step_seconds") == 5.5


@pytest.mark.parametrize("late_s", [0, 0.005], ids=["with the one before", "while the one before runs"])
def test_a_device_is_given_the_next_step_before_it_ends_one(late_s):
    with stretched(is_device=True) as (engine, runner):
        engine.start(small(0))
        for step in range(1, 5):
            time.sleep(late_s)
            engine.start(small(step))
            assert engine.result().step == step - 1
        engine.result()
        for step in range(1, 5):
            assert runner.log.index(("launched", step)) < runner.log.index(("ended", step - 1))
