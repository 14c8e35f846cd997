"""The supervisor with children that have no contents: who is started, told, ended and started again, and when."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lightllm.base.config import ServerConfig
from lightllm.base.errors import ConfigError, EngineDeadError
from lightllm.base.status import State
from lightllm.processes import supervisor
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel
from lightllm.processes.supervision import checkpoint
from lightllm.processes.supervisor import Supervisor

FAKE = Path(__file__).with_name("fake_child.py")


def eventually(condition, timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Run:
    """A supervisor on a thread, its children's diaries, and how it ended."""

    def __init__(self, folder: Path, **settings):
        self.folder, self.error, self.seconds = folder, None, 0.0
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 64}))
        config = {"load_format": "dummy", "running_max_req_size": 4, "max_queued_requests": 4, "port": 0}
        self.supervisor = Supervisor(
            ServerConfig(model_dir=str(folder), **(config | settings)),
            command=lambda process: [sys.executable, str(FAKE), process, str(folder)],
        )
        self.status = self.supervisor._status
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self.supervisor.run()
        except EngineDeadError as error:
            self.error = str(error)
        self.seconds = time.monotonic() - began

    def diary(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(r"^start (\d+)", self.diary(name), re.MULTILINE)]

    def serves(self) -> bool:
        return eventually(lambda: self.status.state is State.SERVING)

    def ends(self) -> bool:
        self.thread.join(10)
        return not self.thread.is_alive()

    def all_pids(self) -> list[int]:
        return [pid for path in self.folder.glob("*.[0-9]") for pid in self.pids(path.name)]


def open_files() -> set[str]:
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts supervisors, and checks that they leave nothing behind."""
    monkeypatch.setattr(supervisor, "_FAREWELL_S", 0.5)
    before, runs = open_files(), []

    def start(**settings) -> Run:
        runs.append(Run(tmp_path, **settings))
        return runs[-1]

    yield start
    for run in runs:
        run.supervisor.stop()
        assert run.ends()
        assert not any(map(is_alive, run.all_pids()))
        del run.supervisor, run.status, run
    runs.clear()
    assert open_files() == before


def test_every_process_hears_from_those_it_is_connected_to(start):
    run = start(tp=2, httpserver_workers=2)
    assert run.serves()
    assert "['client:0', 'client:1', 'detokenizer', 'metrics', 'plans'," in run.diary("scheduler.0")
    assert "pool=999" in run.diary("scheduler.0")  # the least of the ranks
    assert "'store'" in run.diary("worker.0")
    assert "'store'" not in run.diary("worker.1")
    assert "'listener'" in run.diary("api.1")


def test_stop_ends_all_children_at_once(start):
    run = start()
    assert run.serves()
    began = time.monotonic()
    run.supervisor.stop()
    assert run.ends()
    assert time.monotonic() - began < 1
    assert run.error is None


def test_drain_lets_clients_finish(start):
    run = start(httpserver_workers=2, graceful_timeout_s=float("inf"))
    assert run.serves()
    run.supervisor.drain()
    assert eventually(lambda: run.status.state is State.DRAINING)
    assert run.ends()
    assert "drained" in run.diary("api.0")
    assert "drained" in run.diary("api.1")
    assert run.error is None


def test_a_second_order_ends_a_drain(start):
    run = start()
    assert run.serves()
    run.supervisor.drain()
    assert eventually(lambda: "Drain" in run.diary("api.0"))
    run.supervisor.stop()
    assert run.ends()
    assert "drained" not in run.diary("api.0")


@pytest.mark.parametrize(
    ("process", "text", "said"),
    [
        ("worker", "--tp=3 does not fit", "worker 0: --tp=3 does not fit"),
        ("api", "a mistake", "api 0: RuntimeError: a mistake"),
        ("detokenizer", "SIGKILL", "detokenizer .* was killed by SIGKILL"),
    ],
)
def test_a_failed_start_ends_all_with_its_cause(start, tmp_path, process, text, said):
    (tmp_path / f"{process}.fails").write_text(text)
    run = start()
    assert run.ends()
    assert re.search(said, run.error)
    assert run.seconds < 5


@pytest.mark.parametrize("victim", ["scheduler", "worker", "detokenizer"])
def test_a_dead_process_of_the_engine_ends_all_after_clients_were_told(start, victim):
    run = start()
    assert run.serves()
    killed = time.monotonic()
    os.kill(run.pids(f"{victim}.0")[0], signal.SIGKILL)
    assert eventually(lambda: run.status.state is State.FAILED, 1)
    assert eventually(lambda: "EngineLost" in run.diary("api.0"), 1)
    assert time.monotonic() - killed < 1
    assert run.ends()
    assert victim in run.error
    assert "SIGKILL" in run.error


def test_the_engine_is_started_again_where_asked(start):
    run = start(on_failure="restart", tp=2)
    for restarts in (1, 2):
        assert run.serves()
        api, worker = run.pids("api.0"), run.pids("worker.1")
        os.kill(worker[-1], signal.SIGKILL)
        assert eventually(lambda: run.status.state is State.FAILED, 1)
        assert run.serves()
        assert run.status.restarts == restarts
        assert run.pids("api.0") == api
        assert len(run.pids("worker.1")) == len(worker) + 1
        told = re.findall(r"EngineLost|Connect\(name='\w+'", run.diary("api.0"))
        connected = [f"Connect(name='{process}'" for process in ("scheduler", "detokenizer", "grammar")]
        assert told == ["EngineLost", *connected] * restarts
    run.supervisor.stop()
    assert run.ends()
    assert run.error is None


def test_an_engine_that_cannot_be_started_again_ends_all(start, tmp_path):
    run = start(on_failure="restart")
    assert run.serves()
    (tmp_path / "worker.fails").write_text("--device=cuda: the device is gone")
    os.kill(run.pids("scheduler.0")[0], signal.SIGKILL)
    assert run.ends()
    assert "the device is gone" in run.error


def test_a_dead_api_process_is_replaced_alone(start):
    run = start(httpserver_workers=2)
    assert run.serves()
    os.kill(run.pids("api.1")[0], signal.SIGKILL)
    assert eventually(lambda: len(run.pids("api.1")) == 2)
    assert eventually(lambda: "Connect(name='client:1')" in run.diary("detokenizer.0"))
    assert eventually(lambda: "ClientLost(client=1)" in run.diary("scheduler.0"))
    assert run.status.state is State.SERVING
    for name in ("api.0", "scheduler.0", "worker.0", "detokenizer.0"):
        assert len(run.pids(name)) == 1
    # It is connected as the first one was: ready only when it has heard from the detokenizer.
    replaced = next(member for member in run.supervisor._crew.clients.values() if member.index == 1)
    assert eventually(lambda: replaced.ready)


def test_a_dead_grammar_process_is_replaced_alone(start):
    run = start(httpserver_workers=2, tp=2)
    assert run.serves()

    def times_told() -> set[int]:
        return {run.diary(name).count("Connect(name='grammar')") for name in ("worker.0", "api.0", "api.1")}

    for number in (1, 2):
        os.kill(run.pids("grammar.0")[-1], signal.SIGKILL)
        assert eventually(lambda number=number: len(run.pids("grammar.0")) == number + 1)
        assert eventually(lambda number=number: times_told() == {number})
        assert eventually(lambda: run.supervisor._crew.engine["grammar"].ready)
    assert "grammar" not in run.diary("worker.1")
    assert run.status.state is State.SERVING
    for name in ("api.0", "scheduler.0", "worker.0", "detokenizer.0"):
        assert len(run.pids(name)) == 1


def test_without_grammars_there_is_no_process_for_them(start):
    run = start(output_constraint_mode="none")
    assert run.serves()
    assert not run.diary("grammar.0")


def test_an_api_process_that_cannot_be_replaced_ends_all(start, tmp_path):
    run = start()
    assert run.serves()
    (tmp_path / "api.fails").write_text("the tokenizer is gone")
    os.kill(run.pids("api.0")[0], signal.SIGKILL)
    assert run.ends()
    assert "the tokenizer is gone" in run.error


def test_children_end_when_the_supervisor_is_killed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from tests.processes.test_supervisor import Run\n"
        "run = Run(Path(sys.argv[1])); run.serves(); print('serving', flush=True); run.thread.join()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = [int(path.read_text().split()[1]) for path in tmp_path.glob("*.[0-9]")]
        assert len(children) == 5
        assert all(map(is_alive, children))
        process.kill()
    assert eventually(lambda: not any(map(is_alive, children)), 5)


def test_the_offline_api_is_a_client_itself(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 64}))
    ours, theirs = Channel.pair()
    offline = Supervisor(
        ServerConfig(model_dir=str(tmp_path), load_format="dummy", running_max_req_size=4),
        offline=theirs,
        command=lambda process: [sys.executable, str(FAKE), process, str(tmp_path)],
    )
    thread = threading.Thread(target=offline.run)
    thread.start()
    with contextlib.closing(Channel(ours)) as control:
        me = child.receive_start(control)
        me.channel("scheduler").close()  # in its place: hears nothing of the client and is not ready
        assert set(me.descriptors) == {"requests", "status", "metrics", "scheduler", "detokenizer", "grammar"}
        assert me.status.state is State.STARTING
        assert not list(tmp_path.glob("api*"))
    thread.join(10)
    assert not thread.is_alive()  # the client's end is the end of all
    for name in ("requests", "status", "metrics", "detokenizer", "grammar"):
        os.close(me.descriptors[name])


def test_an_occupied_port_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 512, "vocab_size": 64}))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port={port}.*already in use"):
            Supervisor(ServerConfig(model_dir=str(tmp_path), load_format="dummy", port=port))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "config.json"),
        ({"config.json": '{"max_pos'}, "not valid JSON"),
        ({"config.json": "{}"}, "max_req_total_len"),
        ({"config.json": '{"max_position_embeddings": 512}'}, r"\*\.safetensors"),
        (
            {"config.json": '{"max_position_embeddings": 512}', "a.gguf": ""},
            r"\*\.safetensors there, only \.gguf, which",
        ),
        ({"config.json": "{}", "generation_config.json": "[]"}, "generation_config.json"),
    ],
)
def test_a_checkpoint_that_cannot_be_served_is_refused_before_anything_starts(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if "max_req" in said:
        (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=said):
        Supervisor(ServerConfig(model_dir=str(tmp_path), port=0))


def test_a_model_that_is_nowhere_is_named():
    with pytest.raises(ConfigError, match="/no/such/model: no such directory"):
        Supervisor(ServerConfig(model_dir="/no/such/model", port=0))


@pytest.mark.parametrize(
    ("asked", "stated", "said"),
    [
        ({"mode": ["triton_int8kv"], "kv_type": "fp8"}, {}, "--kv_type and --mode=triton_int8kv ask for fp8 and int8"),
        ({}, {"quant_method": "hqq"}, "quant_method hqq is not supported; supported: fp8, awq, gptq, compressed-tenso"),
        ({"quant_type": "w8a8"}, {"quant_method": "awq"}, "--quant_type=w8a8 is for weights that are not quantized"),
        ({"quant_cfg": "/no/such.yaml"}, {}, "--quant_cfg=/no/such.yaml: no such file"),
    ],
)
def test_formats_that_there_are_not_are_refused_before_anything_starts(tmp_path, asked, stated, said):
    config = {"max_position_embeddings": 512, "quantization_config": stated}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=said):
        Supervisor(ServerConfig(model_dir=str(tmp_path), load_format="dummy", port=0, **asked))


def test_a_grammar_engine_that_is_not_installed_is_named_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"xgrammar needs the package xgrammar.*lightllm\[xgrammar\]"):
        Run(tmp_path, output_constraint_mode="xgrammar")
