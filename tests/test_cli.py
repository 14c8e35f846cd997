"""The command line: what is asked for reaches the config, and what is wrong is one line."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

import lightllm
from lightllm import cli
from lightllm.base.config import ServerConfig, parse
from lightllm.cli import bench, serve
from tests import tiny_checkpoint

ROOT = Path(__file__).parents[1]


def run_python(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=60, env=environment
    )


def failure(capsys, *arguments: str) -> str:
    """The only line that a command which fails prints."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code not in (0, None)
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def served(monkeypatch) -> list[ServerConfig]:
    """The configs that `serve` was asked to serve."""
    configs: list[ServerConfig] = []

    class NoSupervisor:
        def __init__(self, config: ServerConfig):
            configs.append(config)

        def run(self) -> None: ...

    monkeypatch.setattr(serve, "Supervisor", NoSupervisor)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serve.log, "setup", lambda *_: None)
    return configs


def test_every_setting_has_a_flag_with_help():
    text = run_python("-m", "lightllm", "serve", "--help").stdout
    for field in msgspec.structs.fields(ServerConfig):
        assert f"--{field.name} " in text or f"--{field.name}\n" in text
    assert "(default: 8192)" in text


def test_a_reader_that_leaves_is_no_traceback():
    command = f"{sys.executable} -m lightllm check | head -1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == ""


def test_words_with_dashes_and_underscores_are_the_same(monkeypatch):
    given = []
    monkeypatch.setattr(bench, "run", lambda **flags: given.append(flags["dataset_name"]) or 0)
    assert cli.main(["bench", "serve", "--dataset-name", "prefix_repetition"]) == 0
    assert cli.main(["bench", "serve", "--dataset-name=prefix-repetition"]) == 0
    assert given == ["prefix-repetition"] * 2


def test_flags_with_dashes_and_underscores_are_the_same(served):
    for dash in ("-", "_"):
        flags = ["--max_total_token_num", "500", "--disable_dynamic_prompt_cache", "--mem_fraction=0.5"]
        flags = [flag.replace("_", dash) for flag in flags]
        assert cli.main(["serve", "a_model", *flags, "--eos_id", "1", "2", "--device", "cpu"]) == 0
    expected = {
        "model_dir": "a_model",
        "max_total_token_num": 500,
        "disable_dynamic_prompt_cache": True,
        "mem_fraction": 0.5,
        "eos_id": [1, 2],
        "device": "cpu",
    }
    assert served == [parse(ServerConfig, expected)] * 2


def test_the_model_may_be_given_either_way(served, capsys):
    assert cli.main(["serve", "--model_dir", "a"]) == cli.main(["serve", "a"]) == cli.main(["serve"]) == 0
    assert [config.model_dir for config in served] == ["a", "a", ""]
    assert "different models" in failure(capsys, "serve", "a", "--model_dir", "b")


def test_the_seed_systems_module_serves_too(tmp_path):
    done = run_python("-m", "lightllm.server.api_server", "--model_dir", str(tmp_path), "--port", "0")
    assert done.returncode == 1
    assert "config.json" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--max_total_tokens", "5"], "unknown flag --max_total_tokens; did you mean --max_total_token_num?"),
        (["serve", "--qqqqqqqq"], "see lightllm serve --help"),
        (["serve", "--max_total"], "unknown flag --max_total;"),
        (["serve", "a", "b"], "unexpected argument 'b'"),
        (["serve", "--device", "tpu"], "invalid choice: 'tpu' (choose from"),
        (["serve", "--tp", "two"], "--tp=two"),
        (["serve", "--tp", "0"], "--tp=0: Expected `int` >= 1"),
        (["serve", "--port"], "--port: expected one argument"),
        (["serve", "/nowhere"], "/nowhere: no such directory"),
        (["chat", "--url", "http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
        (["chat", "--url", "nonsense"], "no server answers at nonsense"),
        (["dance"], "invalid choice: 'dance'"),
    ],
)
def test_what_is_wrong_is_one_line(capsys, arguments, said):
    assert said in failure(capsys, *arguments)


def test_an_occupied_port_is_one_line(capsys, tmp_path):
    tiny_checkpoint.write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = failure(capsys, "serve", str(tmp_path), "--load_format", "dummy", "--port", port)
    assert f"--port={port}" in line


def test_the_version_is_the_packages():
    assert run_python("-m", "lightllm", "--version").stdout == f"lightllm {lightllm.__version__}\n"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import lightllm", ["numpy", "msgspec", "torch"]),
        ("from lightllm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", ["numpy", "tokenizers"]),
        ("from lightllm import SamplingParams", ["numpy", "torch"]),
        ("from lightllm import LLM", ["torch", "transformers", "fastapi"]),
    ],
)
def test_starting_is_quick_because_nothing_is_imported_early(code, absent):
    done = run_python("-c", f"{code}\nimport sys\nfound = set({absent}) & set(sys.modules)\nassert not found, found")
    assert done.returncode == 0, done.stderr


def test_check_shows_packages_devices_and_ops(tmp_path):
    done = run_python("-m", "lightllm", "check", str(tiny_checkpoint.write(tmp_path)), "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for said in ("lightllm", "torch", "cores", "Qwen3ForCausalLM", "512 tokens", "ops on cpu", "rms_norm"):
        assert said in done.stdout


class FakeServer(BaseHTTPRequestHandler):
    """Answers with the number of messages it was sent; fails when it is asked to."""

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "a-model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = body["messages"][-1]["content"]
        if last == "refuse":
            self._send(400, json.dumps({"error": {"message": "not like that"}}))
            return
        pieces = [body["model"], " ", f"{len(body['messages'])}"]
        deltas = [{"reasoning_content": "Hm."}] if last == "reason" else []
        events = [{"choices": [{"delta": delta}]} for delta in [*deltas, *({"content": piece} for piece in pieces)]]
        if last == "fail":
            events.append({"error": {"message": "worker 0 is gone"}})
        self._send(200, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")

    def _send(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_chat_remembers_the_conversation_and_survives_errors(url):
    done = run_python("-m", "lightllm", "chat", "--url", url, stdin="one\ntwo\nrefuse\n\nfail\nthree\n")
    assert done.stdout.splitlines() == ["a-model 1", "a-model 3", "a-model 5", "a-model 7"]
    assert done.stderr.splitlines() == ["[not like that]", "[worker 0 is gone]"]
    assert done.returncode == 0


def test_chat_shows_reasoning_apart_from_the_answer(url):
    done = run_python("-m", "lightllm", "chat", "--url", url, stdin="reason\n")
    assert (done.stdout, done.stderr) == ("a-model 1\n", "Hm.\n\n")


def test_chat_sends_the_model_and_the_instructions_given(url):
    done = run_python(
        "-m", "lightllm", "chat", "--url", url + "/", "--model", "b", "--system", "be brief", stdin="hi\n"
    )
    assert done.stdout == "b 2\n"
