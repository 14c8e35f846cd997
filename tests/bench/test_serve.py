"""The client before a real api process with a fake engine behind it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lightllm.base.config import parse
from lightllm.base.errors import ConfigError
from lightllm.bench import serve
from lightllm.bench.options import ServeOptions
from tests.serving import checkpoint_for_tests
from tests.serving.live_api import LiveApi
from tests.serving.script_for_tests import endless


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def live(checkpoint):
    api = LiveApi(checkpoint, endless, engine={"tick_s": 0.001})
    yield api
    api.close()


@pytest.fixture
def measure(live, checkpoint, tmp_path):
    """Runs the benchmark with these options; gives its exit code and what it wrote."""

    def run(**options) -> tuple[int, dict]:
        common = {"base_url": live.url, "tokenizer": str(checkpoint), "prompt_form": "ids", "disable_tqdm": True}
        common |= {"num_prompts": 6, "random_input_len": 12, "random_output_len": 8, "ignore_eos": True}
        common |= {"save_detailed": True, "result_dir": str(tmp_path), "result_filename": "result.json"}
        code = serve.run(parse(ServeOptions, common | options))
        return code, json.loads((tmp_path / "result.json").read_text())

    return run


@pytest.mark.parametrize("backend", ["openai", "native"])
def test_tokens_are_counted_as_the_server_counts_them(measure, live, backend):
    begin = len(live.engine.prompts)
    code, found = measure(backend=backend, num_warmups=2)
    assert code == 0
    assert [len(prompt) for prompt in live.engine.prompts[begin:]] == [12] * 8
    assert (found["completed"], found["failed"]) == (6, 0)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (72, 48)
    assert found["wrong_input_lens"] == found["wrong_output_lens"] == 0
    assert found["input_lens"] == [12] * 6
    assert found["output_lens"] == [8] * 6
    assert len(found["itls"]) == 6
    for metric in ("ttft", "tpot", "itl", "e2el"):
        assert found[f"mean_{metric}_ms"] > 0
        assert f"p99_{metric}_ms" in found
    assert live.engine.is_idle()


def test_a_limit_of_concurrency_holds_over_all_client_processes(measure, live):
    _, found = measure(max_concurrency=3, client_processes=2, num_prompts=12)
    assert found["max_concurrent_requests"] <= 3
    assert found["completed"] == 12


def test_every_turn_is_sent_with_all_that_was_said_before(live, tmp_path, checkpoint, monkeypatch):
    turns = serve.datasets.Turn(" hello", 0, 5), serve.datasets.Turn(" again", 0, 4)
    monkeypatch.setattr(serve.datasets, "make", lambda *_, **__: [list(turns)])
    for backend in ("openai", "native"):
        begin = len(live.engine.prompts)
        options = {"base_url": live.url, "tokenizer": str(checkpoint), "prompt_form": "ids", "backend": backend}
        options |= {"disable_tqdm": True, "ignore_eos": True}
        assert serve.run(parse(ServeOptions, options)) == 0
        first, second = map(live.engine.tokenizer.decode, live.engine.prompts[begin:])
        assert first == " hello"
        assert second.startswith(" hello")
        assert second.endswith(" again")
        assert len(second) > len(" hello again")


def test_chat_sends_messages_and_takes_no_role_for_a_token(live, checkpoint, monkeypatch):
    turns = serve.datasets.Turn("hello", 0, 5), serve.datasets.Turn("again", 0, 4)
    monkeypatch.setattr(serve.datasets, "make", lambda *_, **__: [list(turns)])
    monkeypatch.setattr(serve.prompts, "load", lambda *_: None)
    begin = len(live.engine.prompts)
    options = {"base_url": live.url, "backend": "openai-chat", "disable_tqdm": True, "ignore_eos": True}
    assert serve.run(parse(ServeOptions, options)) == 0
    first, second = (live.engine.tokenizer.decode(p, skip_special_tokens=False) for p in live.engine.prompts[begin:])
    assert first == "<|start|>user\nhello<|end|><|start|>assistant\n"
    assert second.startswith("<|start|>user\nhello<|end|><|start|>assistant\n")
    assert second.endswith("<|end|><|start|>user\nagain<|end|><|start|>assistant\n")


def test_what_the_server_refuses_is_counted_and_shown(measure, capsys):
    code, found = measure(random_output_len=100_000)
    assert code == 1
    assert (found["completed"], found["failed"]) == (0, 6)
    assert all(error.startswith("400: ") for error in found["errors"])
    assert "6 times: 400: " in capsys.readouterr().out


def test_a_picture_is_drawn(measure, tmp_path):
    pytest.importorskip("matplotlib")
    measure(plot=str(tmp_path / "picture.svg"))
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "other"}, "not served at .*; it has test-model"),
        ({"base_url": "127.0.0.1:8000"}, "is no address"),
        ({"base_url": "http://127.0.0.1:1", "ready_check_timeout_sec": 0}, "does not answer"),
        ({"percentile_metrics": "ttft,speed"}, "no 'speed'"),
        ({"metric_percentiles": "50,101"}, "numbers from 0 to 100"),
        ({"goodput": ["itl:3"]}, "use ttft, tpot or e2el"),
        ({"header": ["X"]}, "NAME=VALUE"),
        ({"plot": "picture"}, "ends with .png"),
        ({"backend": "openai-chat"}, "chat messages are text"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, options, message):
    with pytest.raises(ConfigError, match=message):
        measure(**options)


class Handler(BaseHTTPRequestHandler):
    """A server of the native API alone, which keeps no connection and knows a password."""

    def do_GET(self) -> None:
        self.send_error(404 if self.headers.get("Authorization") == "Bearer me" else 401)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for count in (1, 2):
            event = {"token": {"text": "a", "count_output_tokens": count, "prompt_tokens": 3}}
            self.wfile.write(f"data:{json.dumps(event)}\r\n\r\n".encode())

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_server_that_names_no_models_and_closes_connections_can_be_measured(measure):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = {"base_url": f"http://127.0.0.1:{server.server_port}", "backend": "native"}
        code, found = measure(**address, header=["Authorization=Bearer me"], random_input_len=3, random_output_len=2)
        assert (code, found["completed"], found["total_output_tokens"]) == (0, 6, 12)
        with pytest.raises(ConfigError, match="answers 401"):
            measure(**address)
        server.shutdown()
