"""Thousands of hostile requests, drawn from seeds, to the real HTTP side before a fake engine."""

import gc
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lightllm.serving.api import http_protocol
from tests.fuzzing_http.campaign import LONGEST_S, Campaign
from tests.serving import checkpoint_for_tests
from tests.serving.live_api import MODEL, LiveApi
from tests.serving.script_for_tests import answer

LONGEST = 64  # tokens of prompt and output
MOST_GROWTH = 48 << 20  # bytes of this process, server included, from one half of a campaign to the next


# Which routes a server is for; None: all of them, of a model that generates.
PATHS = {
    "openai": None,
    "tgi": ("/generate", "/generate_stream", "/", "/info"),
    "embeddings": ("/v1/embeddings", "/v1/score", "/v1/rerank"),
    "scores": ("/get_score", "/v1/score", "/v1/rerank"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[dict[str, LiveApi]]:
    """A server of each kind of PATHS."""

    def start(vector_of=None, *, use_tgi_api=False, **checkpoint) -> LiveApi:
        return LiveApi(
            checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"), **checkpoint),
            answer,
            engine={"max_length": LONGEST, "vector_of": vector_of},
            max_req_total_len=LONGEST,
            max_request_bytes=1 << 20,
            use_tgi_api=use_tgi_api,
        )

    classifier = {"architectures": ["Qwen3ForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    started = {
        "openai": start(),
        "tgi": start(use_tgi_api=True),
        "embeddings": start(lambda prompt: [len(prompt), 1.0], embeds=True, hidden_size=2),
        "scores": start(lambda prompt: [len(prompt) / 8], **classifier),
    }
    yield started
    for api in started.values():
        api.close()


@pytest.fixture(scope="module")
def server(servers) -> LiveApi:
    return servers["openai"]


@contextmanager
def nothing_left(server: LiveApi) -> Iterator[None]:
    """Whatever happens within, the server holds afterwards what it held before."""
    before = _held(server)
    yield
    assert server.engine.is_idle(), "every request was released"
    deadline = time.monotonic() + 5
    while _held(server) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _held(server) == before
    assert httpx.get(server.url + "/health", verify=False).status_code == 200


def _held(server: LiveApi) -> tuple[int, int, int]:
    client = server.service.client
    return len(client.open_requests), client._records.num_free, client._records._pages.num_free


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", PATHS)
def test_hostile_requests_are_refused_and_leave_nothing(servers, kind):
    _check(servers, kind, seed=1, values_each=1, at_random=4000 if kind == "openai" else 250)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 14))
@pytest.mark.parametrize("kind", PATHS)
def test_very_many_hostile_requests_are_refused_and_leave_nothing(servers, kind, seed):
    _check(servers, kind, seed=seed, values_each=12, at_random=17_000 if kind == "openai" else 2_000)


def _check(servers: dict[str, LiveApi], kind: str, *, seed: int, values_each: int, at_random: int) -> None:
    server = servers[kind]
    with nothing_left(server), Campaign(server.url, seed, model=MODEL, paths=PATHS[kind]) as campaign:
        campaign.every_field(values_each)
        campaign.at_random(at_random // 2)
        before = _resident_bytes()
        campaign.at_random(at_random // 2)
        assert _resident_bytes() - before < MOST_GROWTH
    print(f"{campaign.num_sent} requests: {dict(sorted(campaign.counts.items()))}")
    assert campaign.counts[200] > campaign.num_sent // 100, "some are good, or the fuzzer tests nothing but parsers"
    assert campaign.counts[400] > campaign.num_sent // 3


REQUEST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
WIRE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "nothing": b"\r\n\r\n",
    "bad version": b"GET / HTTP/9.9\r\n\r\n",
    "bad method": b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a path": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes in a path": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "half an escape": b"GET /%f HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in a header": b"GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\x00b\r\n\r\n",
    "no name": b"GET /health HTTP/1.1\r\n: a\r\n\r\n",
    "folded header": b"GET /health HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "negative length": REQUEST + b"Content-Length: -5\r\n\r\n{}",
    "length is a word": REQUEST + b"Content-Length: five\r\n\r\n{}",
    "enormous length": REQUEST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "two lengths": REQUEST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": REQUEST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": REQUEST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "an enormous chunk": REQUEST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
    "unknown coding": REQUEST + b"Transfer-Encoding: zip\r\n\r\n{}",
    "very many headers": b"GET /health HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(20_000)) + b"\r\n",
    "an enormous header": b"GET /health HTTP/1.1\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
    "an enormous path": b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("data", WIRE.values(), ids=WIRE)
def test_what_is_hardly_http_is_refused_or_dropped(server, data):
    with nothing_left(server):
        answer = _say(server.url, data)
        assert not answer or answer.split(b" ")[1][:1] in (b"2", b"4"), answer[:200]
        assert b"Traceback" not in answer


@pytest.mark.parametrize(
    "begin", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 100 + b"Y: "]
)
def test_a_head_without_end_is_not_kept(server, begin):
    with _connect(server.url) as connection:
        connection.sendall(begin + b"a" * (http_protocol.MOST_HEAD_BYTES + 1000))
        assert connection.recv(4096).startswith(b"HTTP/1.1 431 ")


def test_a_head_that_does_not_come_is_given_up(server, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    with _connect(server.url) as silent, _connect(server.url) as slow:
        slow.sendall(REQUEST)
        for connection in (silent, slow):
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
            assert connection.recv(4096) == b""


def test_bodies_that_never_come_whole_hold_nothing(server):
    """Cut off at every length, the connection closed or left open."""
    body = b'{"prompt": "hello", "max_tokens": 4, "stream": true}'
    whole = REQUEST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with nothing_left(server):
        left_open = [_connect(server.url) for _ in range(100)]
        for i, connection in enumerate(left_open):
            connection.sendall(whole[: i % len(whole)])
        for end in range(0, len(whole) + 1):
            with _connect(server.url) as connection:
                connection.sendall(whole[:end])
        assert httpx.get(server.url + "/health", verify=False, timeout=LONGEST_S).status_code == 200
        for connection in left_open:
            connection.close()


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=LONGEST_S)


def _say(url: str, data: bytes) -> bytes:
    """The beginning of what the server answers, as soon as it closes or has answered; nothing if it just closes."""
    with _connect(url) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
        except OSError:  # it has closed the connection
            return b""
