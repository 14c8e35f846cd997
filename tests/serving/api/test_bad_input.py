"""Whatever is sent, the answer is a small 4xx that says what to do, and the server goes on."""

import json

import httpx
import pytest

from tests.serving.live_api import MODEL
from tests.serving.text.tokenizers_for_tests import byte_level

DEEP = b"[" * 100_000
BODIES = {
    "nothing": b"",
    "malformed": b'{"prompt": ',
    "more than one": b'{"prompt": "a"} {}',
    "no object": b'["a"]',
    "wrong type": b'{"prompt": 5}',
    "mixed list": b'{"prompt": [1, "a"]}',
    "boolean token": b'{"prompt": [true]}',
    "float token": b'{"prompt": [1.5]}',
    "no prompt": b"{}",
    "not a number": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": Infinity}',
    "huge number": b'{"prompt": "a", "max_tokens": 1e400}',
    "huge integer": b'{"prompt": "a", "seed": %s}' % (b"9" * 400),
    "enormous integer": b'{"prompt": "a", "n": %s}' % (b"9" * 100_000),
    "huge integer as float": b'{"prompt": "a", "temperature": %s}' % (b"9" * 400),
    "huge token": b'{"prompt": [%s]}' % (b"9" * 30),
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "lone surrogate": b'{"prompt": "\\ud800 and more"}',
    "lone surrogate at the end": b'{"prompt": "\\ud800"}',
    "empty prompt": b'{"prompt": ""}',
    "empty list": b'{"prompt": []}',
    "list of nothing": b'{"prompt": [[]]}',
    "over-long prompt": json.dumps({"prompt": "word " * 50_000}).encode(),
    "token out of vocabulary": json.dumps({"prompt": [byte_level().get_vocab_size()]}).encode(),
    "negative token": b'{"prompt": [-1]}',
    "deep nesting": DEEP,
    "deep nesting in a field": b'{"prompt": "a", "metadata": %s' % DEEP,
    "unknown model": b'{"prompt": "a", "model": "nope"}',
    "unknown model of some size": json.dumps({"prompt": "a", "model": "m" * 1_000_000}).encode(),
    "unknown field of some size": json.dumps({"prompt": "a", "f" * 1_000_000: 1}).encode(),
    "stop of some size": json.dumps({"prompt": "a", "stop": ["s" * 100_000] * 65}).encode(),
    "empty stop": b'{"prompt": "a", "stop": ""}',
    "too many logprobs": b'{"prompt": "a", "logprobs": 21}',
    "too long an answer": b'{"prompt": "a", "max_tokens": 4096}',
    "min above max": b'{"prompt": "a", "max_tokens": 2, "min_tokens": 3}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bad_completions_are_refused(http, body):
    response = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 10 < len(error["message"]) <= 1000
    assert len(response.content) < 2000
    assert http.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate", "/generate_stream", "/", "/tokens"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", DEEP, b'{"\xff": 1}'], ids=["none", "open", "empty", "deep", "bytes"]
)
def test_bad_bodies_are_refused_everywhere(http, path, body):
    response = http.post(path, content=body)
    assert response.status_code == 400
    assert 10 < len(response.json()["error"]["message"]) <= 1000


def test_the_place_of_a_mistake_is_named(http):
    response = http.post("/v1/chat/completions", json={"messages": ["hello"]})
    assert response.json()["error"]["param"] == "messages[0]"
    assert "Expected `object`, got `str`" in response.json()["error"]["message"]


HELLO = [{"role": "user", "content": "hello"}]
OWN_NAMES = [
    ("/v1/responses", {"input": "a", "max_output_tokens": 10**6}, "max_output_tokens=1000000"),
    ("/v1/responses", {"input": "a", "text": {"format": {"type": "xml"}}}, "text.format.type='xml'"),
    ("/v1/responses", {"input": "a", "text": {"verbosity": "low"}}, "text.verbosity is"),
    ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 10**6}}, "max_new_tokens=1000000"),
    ("/generate", {"inputs": "a", "parameters": {"stop_sequences": [""]}}, "stop_sequences=['']"),
    ("/v1/messages", {"model": MODEL, "messages": HELLO, "max_tokens": 5, "stop_sequences": [""]}, "stop_sequences="),
    ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}, " max_tokens=1000000"),
]


@pytest.mark.parametrize(("path", "body", "says"), OWN_NAMES)
def test_fields_are_named_as_the_route_names_them(http, path, body, says):
    error = http.post(path, json=body).json()["error"]
    assert says in error["message"]
    param = error.get("param") or says
    assert says.strip().startswith(param.split("[")[0])


def test_lengths_are_refused_with_numbers_and_knob(http):
    message = http.post("/v1/completions", json={"prompt": [1] * 1000, "max_tokens": 4000}).json()["error"]["message"]
    assert all(part in message for part in ("1000", "4000", "5000", "4096", "--max_req_total_len"))


def test_an_unknown_model_is_404_and_says_which_is_there(http):
    response = http.post("/v1/completions", json={"prompt": "a", "model": "nope"})
    assert response.status_code == 404
    assert MODEL in response.json()["error"]["message"]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_413(start, is_chunked):
    body = json.dumps({"prompt": "x" * 2000}).encode()
    with httpx.Client(base_url=start(max_request_bytes=1000).url, timeout=20) as http:
        content = iter([body[:500], body[500:]]) if is_chunked else body
        response = http.post("/v1/completions", content=content)
        assert response.status_code == 413
        assert "--max_request_bytes" in response.json()["error"]["message"]
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200
