"""The client before a real api process with a fake engine behind it."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
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
        ({"plot": "/proc/no/such.png"}, "--plot=/proc/no/such.png: No such file"),
        ({"result_dir": "/proc/nowhere"}, "--result_dir=/proc/nowhere"),
        ({"save_detailed": False, "metadata": ["a=b"]}, "--result_dir is about the JSON file"),
        ({"extra_body": "[1]"}, "--extra_body=.* give a JSON object"),
        ({"tokenizer": "/nowhere", "prompt_form": "text"}, "/nowhere has no tokenizer.json; give --tokenizer"),
        ({"request_rate": float("inf"), "burstiness": 2.0}, "give --request_rate"),
        ({"backend": "openai-chat"}, "chat messages are text"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, options, message):
    with pytest.raises(ConfigError, match=message):
        measure(**options)


class Handler(BaseHTTPRequestHandler):
    """A server that keeps no connection, knows a password, and answers POST as `answers` say in turn."""

    answers: Iterator[Callable[["Handler"], None]]
    paths: list[str]
    bodies: list[dict]
    models: dict | None = None

    def do_GET(self) -> None:
        if self.models is not None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(self.models).encode())
            return
        self.send_error(404 if self.headers.get("Authorization") == "Bearer me" else 401)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.paths.append(self.path)
        self.bodies.append(json.loads(body) if body else {})
        next(self.answers)(self)

    def stream(self, *events: dict) -> None:
        self.send_response(200)
        self.end_headers()
        for event in events:
            self.wfile.write(f"data:{json.dumps(event)}\r\n\r\n".encode())

    def log_message(self, format: str, *args: object) -> None: ...


def natively(handler: Handler) -> None:
    events = [{"token": {"text": "a", "count_output_tokens": count, "prompt_tokens": 3}} for count in (1, 2)]
    handler.stream(*events)


def without_usage(handler: Handler) -> None:
    handler.stream(*({"choices": [{"text": text}]} for text in ("a", "b", "c")))


@contextlib.contextmanager
def server(*answers: Callable[[Handler], None]) -> Iterator[dict]:
    """One that is not ours; gives options that have it measured with as many prompts as it has answers."""
    Handler.answers, Handler.paths, Handler.bodies = iter(answers), [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = {"base_url": f"http://127.0.0.1:{running.server_port}", "header": ["Authorization=Bearer me"]}
        yield address | {"num_prompts": len(answers), "random_input_len": 3, "random_output_len": 2}
        running.shutdown()


def test_a_server_that_names_no_models_and_closes_connections_can_be_measured(measure):
    with server(*[natively] * 6) as options:
        code, found = measure(**options, backend="native")
        assert (code, found["completed"], found["total_output_tokens"]) == (0, 6, 12)
        with pytest.raises(ConfigError, match="answers 401"):
            measure(**options | {"header": []})


def test_a_server_that_loads_models_when_they_are_asked_for_gets_the_name_as_given(measure, monkeypatch):
    monkeypatch.setattr(Handler, "models", {"data": []})
    with server(without_usage) as options:
        assert measure(**options, model="a-model")[0] == 0
        assert Handler.bodies[0]["model"] == "a-model"


def test_no_proxy_stands_between_as_for_the_requests_themselves(measure, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with server(without_usage) as options:
        assert measure(**options, ready_check_timeout_sec=0)[0] == 0


def test_an_address_may_end_as_openai_clients_want_it(measure):
    with server(without_usage) as options:
        measure(**options | {"base_url": options["base_url"] + "/v1/"})
        assert Handler.paths == ["/v1/completions"]


def test_servers_of_others_have_their_names(measure):
    with server(without_usage) as options:
        _, found = measure(**options, backend="vllm")
        assert (found["backend"], Handler.paths) == ("vllm", ["/v1/completions"])


def test_events_are_counted_where_the_server_says_nothing_of_tokens(measure, capsys):
    with server(without_usage, without_usage) as options:
        code, found = measure(**options)
    assert (code, found["total_output_tokens"], found["total_input_tokens"], found["uncounted"]) == (0, 6, 6, 2)
    assert (found["wrong_input_lens"], found["total_cached_tokens"]) == (0, None)
    assert "does not say how many tokens 2 answers have" in capsys.readouterr().out


def test_a_request_that_fails_among_others_is_in_the_exit_code(measure, capsys):
    def fail(handler: Handler) -> None:
        handler.send_error(500, "out of order")

    with server(without_usage, fail, without_usage) as options:
        code, found = measure(**options, max_concurrency=1)
    assert (code, found["completed"], found["failed"]) == (1, 2, 1)
    assert "1 times: 500: " in capsys.readouterr().out


def test_a_server_that_dies_fails_what_is_open_and_what_comes_after(measure):
    def die(handler: Handler) -> None:
        handler.server.socket.close()
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'data: {"choices": [{"text": "a"}]}\n\n')

    with server(without_usage, die, without_usage) as options:
        code, found = measure(**options, max_concurrency=1)
    assert (code, found["completed"], found["failed"]) == (1, 1, 2)


def test_more_fields_go_with_each_request(measure):
    for backend, answer in (("openai", without_usage), ("native", natively)):
        with server(answer) as options:
            measure(**options, backend=backend, extra_body='{"min_p": 0.1, "skip_special_tokens": false}')
        body = Handler.bodies[0] if backend == "openai" else Handler.bodies[0]["parameters"]
        assert (body["min_p"], body["skip_special_tokens"]) == (0.1, False)


@pytest.fixture
def usual_interrupts():
    """Those of a command on a terminal, whatever these tests were started by."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_was_answered_before_an_interrupt_is_reported(measure, capsys, usual_interrupts):
    done = threading.Event()

    def interrupt(handler: Handler) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.wait(30)

    with server(without_usage, interrupt, without_usage) as options:
        code, found = measure(**options, max_concurrency=1, client_processes=1)
        done.set()
    assert (code, found["completed"], found["failed"], found["interrupted"]) == (130, 1, 0, True)
    assert len(Handler.paths) == 2
    out, err = capsys.readouterr()
    assert "interrupted; these are the figures of what was answered by then" in out
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_before_any_answer_is_as_usual(measure, usual_interrupts):
    done = threading.Event()

    def interrupt(handler: Handler) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.wait(30)

    with server(interrupt) as options:
        with pytest.raises(KeyboardInterrupt):
            measure(**options)
        done.set()


def test_traces_are_named_and_profiling_ends_with_the_work(measure, capsys):
    def said(answer: bytes) -> Callable[[Handler], None]:
        return lambda handler: (handler.send_response(200), handler.end_headers(), handler.wfile.write(answer))

    with server(said(b""), without_usage, said(b'{"files": ["traces/a.json.gz"]}')) as options:
        measure(**options | {"num_prompts": 1}, profile=True)
    assert Handler.paths == ["/start_profile", "/v1/completions", "/stop_profile"]
    assert "the server wrote traces/a.json.gz" in capsys.readouterr().out


def test_who_waits_for_a_server_is_told(measure, capsys):
    with pytest.raises(ConfigError, match="does not answer"):
        measure(base_url="http://127.0.0.1:1", ready_check_timeout_sec=0.05)
    assert "waiting 0.05 s at most for http://127.0.0.1:1 (" in capsys.readouterr().err


def test_settings_are_kept_with_the_figures_but_no_keys(measure):
    with server(without_usage) as options:
        _, found = measure(**options)
    assert found["options"]["random_input_len"] == 3
    assert found["options"]["request_rate"] == "inf"
    assert "Bearer me" not in json.dumps(found)
