"""Streams among others: clients that leave, clients that stop reading, engines that die, servers that are full."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest

from lightllm.serving.api.event_stream import EventStream
from lightllm.serving.records import Update
from tests.serving.script_for_tests import endless

ENDLESS = {"prompt": "go", "ignore_eos": True, "max_tokens": 4000}


def open_stream(url: str, body: dict, *, receive_buffer: int | None = None) -> socket.socket:
    """A connection with a request sent and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((host, int(port)))
    data = json.dumps(body).encode()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
    return connection


async def events(url: str, *, begun: asyncio.Event | None = None, **body) -> list[dict]:
    """All that a stream gives, to its end. `begun` is set when there is a first event."""
    found = []
    async with (
        httpx.AsyncClient(base_url=url, timeout=20, verify=False) as http,
        http.stream("POST", "/v1/completions", json=ENDLESS | {"stream": True} | body) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                found.append(json.loads(line[6:]))
                if begun is not None:
                    begun.set()
    return found


def eventually(holds, timeout_s: float = 5) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_client_that_leaves_frees_its_records(start, stream):
    live = start(endless, engine={"tick_s": 0.002})
    connection = open_stream(live.url, ENDLESS | {"stream": stream, "n": 3})
    assert eventually(lambda: len(live.engine.running) == 3)
    connection.close()
    assert live.engine.is_idle(timeout_s=1)
    assert eventually(lambda: live.metrics.total("request_aborted") == 3)
    assert live.metrics.total("request_count") == 3


def test_a_client_that_stops_reading_delays_nobody(start):
    live = start(endless)
    stalled = open_stream(live.url, ENDLESS | {"stream": True}, receive_buffer=4096)
    try:
        assert eventually(lambda: live.engine.running)
        began = time.monotonic()
        answer = asyncio.run(events(live.url, max_tokens=100))
        assert answer[-1]["choices"][0]["finish_reason"] == "length"
        assert time.monotonic() - began < 5
    finally:
        stalled.close()
    assert live.engine.is_idle()


def test_what_a_client_did_not_read_stays_for_it(start):
    live = start(endless)
    slow = open_stream(live.url, ENDLESS | {"stream": True}, receive_buffer=4096)
    assert eventually(lambda: live.engine.ticks >= 4000, timeout_s=20), "the engine does not wait for it"
    data = b""
    slow.settimeout(10)
    with contextlib.closing(slow):
        while b"[DONE]" not in data:
            data += slow.recv(1 << 16)
    chunks = [json.loads(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    whole = httpx.post(live.url + "/v1/completions", json=ENDLESS, timeout=20, verify=False).json()
    assert text == whole["choices"][0]["text"]
    assert len(chunks) < 4000, "what waited was sent together"


def test_a_dead_engine_ends_streams_with_its_reason_and_others_with_503(start):
    live = start(endless, engine={"tick_s": 0.002})

    async def lose() -> tuple[list[dict], httpx.Response]:
        begun = asyncio.Event()  # before that a stream would be 503, too
        streaming = asyncio.create_task(events(live.url, begun=begun))
        async with httpx.AsyncClient(base_url=live.url, timeout=20, verify=False) as http:
            waiting = asyncio.create_task(http.post("/v1/completions", json=ENDLESS))
            await begun.wait()
            while len(live.engine.running) < 2:
                await asyncio.sleep(0.005)
            live.engine.paused.set()  # so that neither comes to its end
            await asyncio.to_thread(live.lose_engine, "worker 0 was killed by signal 9")
            return await streaming, await waiting

    streamed, whole = asyncio.run(lose())
    assert "signal 9" in streamed[-1]["error"]["message"]
    assert streamed[-1]["error"]["type"] == "service_unavailable_error"
    assert whole.status_code == 503
    assert "signal 9" in whole.json()["error"]["message"]
    assert live.metrics.total("request_failure") == 2
    with httpx.Client(base_url=live.url, timeout=20, verify=False) as http:
        assert http.get("/health").status_code == 503
        refused = http.post("/v1/completions", json=ENDLESS)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        live.engine.paused.clear()
        live.restart_engine()
        assert eventually(lambda: http.get("/health").status_code == 200)
        answer = http.post("/v1/completions", json=ENDLESS | {"max_tokens": 5}).json()
        assert answer["usage"]["completion_tokens"] == 5


def test_a_full_table_is_429_with_retry_after(start):
    live = start(endless, records=2, engine={"tick_s": 0.002})
    connection = open_stream(live.url, ENDLESS | {"stream": True, "n": 2})
    with httpx.Client(base_url=live.url, timeout=20, verify=False) as http, contextlib.closing(connection):
        assert eventually(lambda: len(live.engine.running) == 2)
        refused = http.post("/v1/completions", json=ENDLESS)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert http.get("/health").status_code == 200


def test_a_full_queue_is_429_and_says_which_flag(start):
    live = start(endless, max_queued_requests=2, engine={"tick_s": 0.002, "max_running": 1})
    body = ENDLESS | {"stream": True}
    with contextlib.ExitStack() as stack, httpx.Client(base_url=live.url, timeout=20, verify=False) as http:
        for waiting in (0, 1, 2):
            stack.enter_context(contextlib.closing(open_stream(live.url, body)))
            assert eventually(lambda waiting=waiting: live.engine.running and len(live.engine.waiting) == waiting)
        refused = http.post("/v1/completions", json=ENDLESS)
        assert refused.status_code == 429
        assert "--max_queued_requests=2" in refused.json()["error"]["message"]


def test_a_list_of_prompts_that_does_not_fit_leaves_nothing_behind(start):
    live = start(endless, records=3, engine={"tick_s": 0.002})
    refused = httpx.post(live.url + "/v1/completions", json=ENDLESS | {"prompt": ["a"] * 4}, verify=False)
    assert refused.status_code == 429
    assert live.engine.is_idle()
    done = httpx.post(live.url + "/v1/completions", json={"prompt": ["a"] * 3, "max_tokens": 2}, verify=False)
    assert done.status_code == 200


def test_native_streams_end_with_an_error_too(start):
    live = start(endless, engine={"tick_s": 0.002})

    async def lose() -> str:
        async with httpx.AsyncClient(base_url=live.url, timeout=20, verify=False) as http:
            waiting = asyncio.create_task(http.post("/generate_stream", json={"inputs": "go"}))
            while not live.engine.running:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(live.lose_engine, "gone")
            return (await waiting).text

    last = asyncio.run(lose()).strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data:"))["error"]["message"] == "gone"


def test_a_long_prompt_is_tokenized_beside_other_requests(start, monkeypatch):
    live = start()
    tokenizer, begun, ended = live.service.tokenizer, threading.Event(), threading.Event()
    encode = tokenizer.encode

    def watched(text: str, **options: bool) -> list[int]:
        if len(text) < 1_000_000:
            return encode(text, **options)
        begun.set()
        try:
            return encode(text, **options)
        finally:
            ended.set()

    async def answered_meanwhile() -> int:
        count = 0
        async with httpx.AsyncClient(base_url=live.url, timeout=30, verify=False) as http:
            long = asyncio.create_task(http.post("/v1/completions", json={"prompt": "word " * 400_000}))
            assert await asyncio.to_thread(begun.wait, 30)
            while not ended.is_set():
                assert (await http.post("/tokenize", json={"prompt": "a"})).status_code == 200
                count += not ended.is_set()
            assert (await long).status_code == 400
        return count

    monkeypatch.setattr(tokenizer, "encode", watched)
    assert asyncio.run(answered_meanwhile()) > 0


def test_a_client_that_leaves_while_it_sends_is_no_error(start, caplog):
    live = start()
    with open_stream(live.url, {"prompt": "a"}) as done:
        assert b"200 OK" in done.recv(1 << 16)
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert httpx.get(live.url + "/health", verify=False).status_code == 200
    assert not caplog.records


async def test_a_stream_that_fails_says_so_before_it_ends(caplog):
    """A mistake of ours, too, is an event and not a cut connection."""

    class Form:
        needs_tokens = False

        def event(self, choice, update) -> bytes:
            raise ZeroDivisionError

        def end(self) -> bytes:
            return b""

        def failure(self, status, message) -> bytes:
            return b"data: %d" % status

    class OneUpdate:
        requests = (None,)
        released = False

        @contextlib.asynccontextmanager
        async def watched(self, receive):
            yield
            self.released = True

        async def updates(self, *, with_tokens):
            yield [(0, Update("text"))]

    sent, generation = [], OneUpdate()

    async def send(message) -> None:
        sent.append(message)

    await EventStream(generation, Form())({"type": "http"}, None, send)
    assert sent[-1]["body"] == b"data: 500"
    assert not sent[-1].get("more_body")
    assert generation.released
    assert "ZeroDivisionError" in caplog.text
