"""Who may use the server, what is told to whom, and what never appears anywhere."""

import json
import logging
import ssl
import time

import httpx
import pytest

from lightllm.base.errors import ConfigError
from lightllm.serving.api import json_limits
from lightllm.serving.api.keys import Keyring
from lightllm.serving.api.printable import printable, request_id
from tests.serving.live_api import LiveApi
from tests.serving.script_for_tests import answer

ALICE, BOB = "sk-alice-7f3", "sk-bob-91c"
ASK = {"prompt": "hello", "max_tokens": 2}


@pytest.fixture(scope="module")
def guarded(checkpoint):
    api = LiveApi(checkpoint, answer, api_key=[f"alice {ALICE}", BOB, "alice sk-alice-2"], access_log="json")
    yield api
    api.close()


@pytest.fixture(scope="module")
def stranger(guarded):
    with httpx.Client(base_url=guarded.url, timeout=20, verify=False) as http:
        yield http


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def routes(http: httpx.Client) -> list[tuple[str, str]]:
    paths = http.get("/openapi.json", headers=bearer(ALICE)).json()["paths"]
    return [(method.upper(), path.replace("{name}", "x")) for path, item in paths.items() for method in item]


def test_every_route_but_health_needs_a_key(stranger):
    health = {"/health", "/healthz", "/readiness", "/liveness"}
    asked = routes(stranger)
    assert len(asked) > 10
    for method, path in [*asked, ("GET", "/openapi.json"), ("POST", "/"), ("GET", "/nothing"), ("GET", "/tokens")]:
        status = stranger.request(method, path, content=b"").status_code
        assert (status == 200) if path in health else (status == 401), (method, path)


@pytest.mark.parametrize(
    "headers", [bearer(ALICE), {"authorization": f"bearer   {BOB}"}, {"x-api-key": ALICE}, {"X-Api-Key": "sk-alice-2"}]
)
def test_any_of_the_keys_opens_in_either_header(stranger, headers):
    assert stranger.post("/v1/completions", json=ASK, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        {"authorization": "Bearer"},
        bearer(ALICE + "x"),
        bearer(ALICE[:-1]),
        bearer("alice"),
        {"authorization": ALICE},
        {"authorization": f"Basic {ALICE}"},
        {"x-api-key": ""},
        {"authorization": b"Bearer \xff\xfe"},
        {"cookie": f"key={ALICE}"},
    ],
)
def test_nothing_else_opens(stranger, guarded, headers):
    asked = len(guarded.engine.prompts)
    response = stranger.post("/v1/completions", json=ASK, headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert not any(key in response.text for key in (ALICE, BOB, "wrong"))
    assert len(guarded.engine.prompts) == asked


def test_names_have_tenants_and_salts_of_their_own(stranger, guarded):
    before = len(guarded.engine.records)
    for key in (ALICE, "sk-alice-2", BOB):
        stranger.post("/v1/completions", json=ASK, headers=bearer(key))
        stranger.post("/v1/completions", json=ASK | {"user": "u"}, headers=bearer(key))
    salts = [int(record["salt"]) for record in guarded.engine.records[before:]]
    tenants = [int(record["tenant"]) for record in guarded.engine.records[before:]]
    assert salts == [1, 1, 1, 1, 2, 2]
    assert tenants[:2] == tenants[2:4]
    assert len(set(tenants)) == 4, "the users of two callers are not one another"


def test_without_keys_all_share(http, live):
    http.post("/v1/completions", json=ASK, headers=bearer("any"))
    assert live.engine.records[-1]["salt"] == 0


@pytest.mark.parametrize("given", ["", "two words more", "name ключ", "a,b", 'a"b', "n;ame key", "a\x00b"])
def test_keys_that_no_header_can_carry_are_refused_unseen(given):
    with pytest.raises(ConfigError, match="API key 2") as caught:
        Keyring(["good", given])
    assert not given or given not in str(caught.value)


def test_a_key_belongs_to_one_name():
    with pytest.raises(ConfigError, match="another name"):
        Keyring(["alice same", "bob same"])
    assert len(set(Keyring(["a one", "a two"])._callers.values())) == 1


def test_a_request_keeps_its_id_and_gets_one_if_it_has_none(http):
    assert http.get("/version", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    first, second = (http.get("/version").headers["x-request-id"] for _ in range(2))
    assert first != second
    with http.stream("POST", "/v1/completions", json=ASK | {"stream": True}, headers={"x-request-id": "s"}) as response:
        assert response.headers["x-request-id"] == "s"
    assert http.get("/nothing", headers={"x-request-id": "e"}).headers["x-request-id"] == "e"


@pytest.mark.parametrize("given", [b"", b"a b", b"a\x1b[31m", b"x" * 129, b'"}', b"\xff", b"a\tb", b"<script>"])
def test_ids_that_could_do_harm_are_replaced(given):
    assert request_id(given) != given
    assert request_id(given).isalnum()


def test_errors_hold_no_control_characters(http):
    bodies = [
        b'{"prompt": "a", "\\u001b[2J\\u202e\\u0000": 1}',
        b'{"prompt": "a", "model": "\\u001b[31m\\u2028\\u009b"}',
        b'{"prompt": "a", "stop": ["' + b"s" * 100_000 + b'", 5]}',
    ]
    responses = [http.post("/v1/completions", content=body) for body in bodies]
    responses.append(http.get("/%1b%5b31m%0a%0dSet-Cookie:x"))
    for response in responses:
        assert 400 <= response.status_code < 500
        error = response.json()["error"]
        assert error["message"].isprintable()
        assert (error["param"] or "").isprintable()
        assert len(response.content) < 2000


def test_what_is_printable_is_left_alone():
    assert printable("naïve 你好 🙂", 100) == "naïve 你好 🙂"
    assert printable("a\nb\x1b\u202e\ud800", 100) == "a\\nb\\x1b\\u202e\\ud800"
    assert printable("\n" * 100, 50) == "\\n" * 23 + " ..."


def test_the_access_log_says_who_asked_for_what_and_holds_no_secret(stranger, capfd, monkeypatch):
    logger, lines = logging.getLogger("lightllm_access"), []
    monkeypatch.setattr(logger.handlers[0], "emit", lambda record: lines.append(record.getMessage()))
    headers = bearer(ALICE) | {"x-request-id": "log-1"}
    stranger.post("/v1/completions?key=sk-query", json=ASK, headers=headers)
    stranger.post("/v1/completions", json=ASK, headers=bearer("sk-wrong"))
    stranger.get("/a%0ab")
    deadline = time.monotonic() + 5
    while len(lines) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    first, second, third = map(json.loads, lines)
    assert {name: first[name] for name in ("request_id", "client", "method", "path", "status", "key")} == {
        "request_id": "log-1",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "key": "alice",
    }
    assert 0 < first["seconds"] < 20
    assert second["status"] == 401
    assert "key" not in second
    assert third["path"] == "/a\\nb"
    assert not any(secret in line for line in lines for secret in (ALICE, "sk-wrong", "sk-query", "hello"))
    assert ALICE not in "".join(capfd.readouterr())


def test_pages_of_other_origins_may_ask_only_where_allowed(start, http):
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    api = start(allowed_origins=["https://a.example"], api_key=[ALICE])
    with httpx.Client(base_url=api.url, timeout=20, verify=False) as allowed:
        response = allowed.options("/v1/completions", headers=preflight)
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://a.example")
        refused = allowed.post("/v1/completions", json=ASK, headers={"origin": "https://a.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
        other = allowed.post("/v1/completions", json=ASK, headers=bearer(ALICE) | {"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in http.options("/v1/completions", headers=preflight).headers


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        (b"", 0),
        (b"[]", 1),
        (b'{"a": [{"b": 1}, {}]}', 3),
        (b'"[[["', 0),
        (b'["\\"[[[", "\\\\", "[", "\\\\\\"{"]', 1),
        (b"[" * 5 + b"]" * 5, 5),
        (b"]]]][[", 0),
    ],
)
def test_depth_is_that_of_brackets_outside_of_strings(body, depth):
    assert json_limits.depth(body) == depth


@pytest.mark.parametrize(
    "deep", [b'{"a":' * 130 + b"1" + b"}" * 130, b"[" * 130 + b"]" * 130, b"[" * 100_000, b'{"a":[' * 50_000]
)
def test_a_body_nested_too_deeply_is_refused_before_it_is_parsed(http, deep):
    response = http.post("/v1/completions", content=b'{"prompt": "a", "metadata": %s}' % deep)
    assert response.status_code == 400
    assert "128 levels" in response.json()["error"]["message"]


def test_brackets_in_a_text_are_no_nesting(http):
    text = "[{" * 500 + '\\"' + "\\"
    assert http.post("/v1/completions", json=ASK | {"prompt": text}).status_code == 200


def test_a_name_that_is_there_twice_is_refused_at_any_depth(http):
    for body in (b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "suffix": [{"x": 1, "y": 2, "\\u0078": 1}]}'):
        response = http.post("/v1/completions", content=body)
        assert response.status_code == 400
        assert "more than once" in response.json()["error"]["message"]
        assert response.json()["error"]["param"] in ("prompt", "x")


def test_https_is_served_with_a_certificate(start, tmp_path):
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    path = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    api = start(ssl_certfile=str(path))
    trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with httpx.Client(base_url=api.url.replace("http:", "https:"), timeout=20, verify=trust) as http:
        assert http.post("/v1/completions", json=ASK).status_code == 200
    with httpx.Client(base_url=api.url, timeout=20, verify=False) as http, pytest.raises(httpx.HTTPError):
        http.get("/health")
