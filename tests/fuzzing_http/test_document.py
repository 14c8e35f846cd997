"""The OpenAPI document is complete, and true."""

import json
import subprocess
import sys

import httpx
import pytest

from tests.fuzzing_http.campaign import Campaign
from tests.serving import checkpoint_for_tests
from tests.serving.checkpoint_for_tests import END
from tests.serving.live_api import MODEL, LiveApi
from tests.serving.text.tokenizers_for_tests import byte_level

KEY = "sk-document"


def saying_and_calling(prompt: list[int], seed: int) -> list[int]:
    text = 'Größe 世界. <tool_call>{"name": "f", "arguments": {"a": [1, "b"]}}</tool_call>'
    return [*byte_level().encode(text).ids, byte_level().token_to_id(END)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    checkpoint = checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"))
    limits = {"engine": {"max_length": 400}, "max_req_total_len": 400}
    api = LiveApi(checkpoint, saying_and_calling, tool_call_parser="hermes", api_key=[KEY], **limits)
    yield api
    api.close()


@pytest.fixture(scope="module")
def document(server):
    return httpx.get(f"{server.url}/openapi.json", headers={"x-api-key": KEY}, verify=False).json()


def operations(document):
    return [(path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()]


def test_every_route_says_what_it_takes_and_gives(server, document):
    routes = {(path, method) for path, method, _ in operations(document)}
    assert {("/v1/chat/completions", "post"), ("/metrics", "get"), ("/generate", "post")} <= routes
    identifiers = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(identifiers) == len(set(identifiers))
    for path, method, operation in operations(document):
        assert operation["description"], path
        assert all("schema" in about for about in operation["responses"]["200"]["content"].values()), path
        assert operation["responses"]["200"]["content"], path
        assert {"401", "default"} <= operation["responses"].keys(), path
        assert ("requestBody" in operation) == ("413" in operation["responses"]), (path, method)


def test_every_schema_that_is_mentioned_is_there_and_none_besides(document):
    def mentioned(value) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(mentioned, value.values()))
        return set().union(*map(mentioned, value)) if isinstance(value, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert mentioned(document) == schemas


def test_who_may_use_what_is_said(document, server):
    assert [scheme for need in document["security"] for scheme in need] == ["bearer", "x-api-key"]
    open_routes = {path for path, _, operation in operations(document) if operation.get("security") == []}
    assert open_routes == {"/health", "/healthz", "/readiness", "/liveness"}


HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ALL = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}, "n": 2, "service_tier": "auto"}
MESSAGE = {"model": MODEL, "messages": HELLO, "max_tokens": 200}
STREAMS = [
    ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "return_token_ids": True} | ALL),
    ("/v1/chat/completions", {"messages": HELLO, "tools": [TOOL]} | ALL),
    ("/v1/completions", {"prompt": "hello", "logprobs": 2, "return_token_ids": True} | ALL),
    ("/v1/completions", {"prompt": "hello", "logprobs": 1, "echo": True} | ALL),
    ("/v1/chat/completions", {"messages": HELLO, "functions": [TOOL["function"]]} | ALL),
    ("/", {"inputs": "hello", "parameters": {"max_new_tokens": 3}}),
    ("/v1/messages", MESSAGE | {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
    ("/v1/messages", MESSAGE | {"max_tokens": 2}),
    ("/v1/responses", {"input": "hello", "include": ["message.output_text.logprobs"], "top_logprobs": 2}),
    ("/v1/responses", {"input": "hello", "tools": [{"type": "function"} | TOOL["function"]], "max_output_tokens": 40}),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_streams_and_answers_hold_what_is_documented_and_nothing_else(server, path, body):
    with Campaign(server.url, 1, model=MODEL, headers={"x-api-key": KEY}) as campaign:
        [route] = [route for route in campaign.document.routes if (route.method, route.path) == ("POST", path)]
        campaign.send(route, json.dumps(body | {"stream": True}).encode())
        without = {name: value for name, value in body.items() if name != "stream_options"}
        campaign.send(route, json.dumps(without).encode())
    assert campaign.counts == {200: 2}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_without_a_key_and_nothing_from_elsewhere(server, path):
    response = httpx.get(server.url + path, verify=False)
    assert response.status_code == 200
    assert not any(word in response.text for word in ("http://", "https://", '<link rel="stylesheet', " src="))
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "style=" not in response.text, "the policy forbids styles in attributes"
    assert KEY not in response.text


@pytest.mark.slow
def test_schemathesis_finds_no_failure_and_nothing_that_is_not_documented(server):
    # A request may be as the document says and still be refused, for the values it combines; HEAD and POST of
    # health routes are served without mention, which Allow has; one good key is enough, whatever the other header says.
    excluded = "positive_data_acceptance,unsupported_method,allow_header_conformance,ignored_auth"
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
            "--header", f"x-api-key: {KEY}",
            "--checks", "all", "--exclude-checks", excluded,
            "--max-examples", "60", "--seed", "1", "--request-timeout", "5", "--no-color",
        ],
        capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
