"""What clients ask of the form of an answer reaches the engine as one grammar, or is refused."""

import httpx
import msgspec
import pytest

from lightllm.base.errors import RequestError
from lightllm.base.grammar import (
    MOST_BYTES,
    ConstString,
    ContextFree,
    Either,
    JsonSchema,
    Regex,
    Tag,
    TriggeredTags,
    decode,
    encode,
)
from lightllm.base.request import SamplingParams
from lightllm.serving.api.structured import grammar_of
from tests.serving.live_api import MODEL, LiveApi

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OBJECT = JsonSchema({"type": "object"})
TAG = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"}
TAGGED = Tag("<a>", JsonSchema(SCHEMA), "</a>")
OLD_TAG = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a"]}
MEANS = {
    "text": ({"response_format": {"type": "text"}}, None),
    "json_object": ({"response_format": {"type": "json_object"}}, OBJECT),
    "json_schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        JsonSchema(SCHEMA),
    ),
    "structural_tag": ({"response_format": {"type": "structural_tag", "format": TAG}}, TAGGED),
    "old structural_tag": (
        {"response_format": {"type": "structural_tag"} | OLD_TAG},
        TriggeredTags(["<a"], [TAGGED]),
    ),
    "guided_json": ({"guided_json": SCHEMA}, JsonSchema(SCHEMA)),
    "other names": ({"json_schema": "", "regex": "a+", "ebnf": None}, Regex("a+")),
    "ebnf": ({"ebnf": 'root ::= "a"'}, ContextFree('root ::= "a"')),
    "json_schema by itself": ({"json_schema": '{"type": "object"}'}, OBJECT),
    "guided_json as text": ({"guided_json": '{"type": "object"}'}, OBJECT),
    "guided_regex": ({"guided_regex": "a+"}, Regex("a+")),
    "guided_choice": ({"guided_choice": ["a", "b"]}, Either([ConstString("a"), ConstString("b")])),
    "guided_grammar": ({"guided_grammar": "start: x"}, ContextFree("start: x")),
    "regular_constraint": ({"regular_constraint": "a+", "guided_json": ""}, Regex("a+")),
    "outputs.json": ({"structured_outputs": {"json": SCHEMA, "regex": None}}, JsonSchema(SCHEMA)),
    "outputs.json_object": ({"structured_outputs": {"json_object": True}}, OBJECT),
    "outputs.tag": ({"structured_outputs": {"structural_tag": msgspec.json.encode(TAG).decode()}}, TAGGED),
    "nothing": ({"structured_outputs": {}, "guided_json": None}, None),
}  # fmt: skip
WRONG = {
    "response_format.type='xml'": {"response_format": {"type": "xml"}},
    "schema is missing": {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    "response_format.type=.None": {"response_format": "json"},
    "guided_json and guided_regex": {"guided_json": SCHEMA, "guided_regex": "a"},
    "json and regex": {"structured_outputs": {"json": SCHEMA, "regex": "a"}},
    "structured_outputs.whitespace_pattern": {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " "}},
    "guided_json is not valid JSON": {"guided_json": "{"},
    "guided_json must be": {"guided_json": 5},
    "guided_choice must be": {"guided_choice": []},
    "guided_regex must be": {"guided_regex": 5},
    r"format.*Invalid value 'tga'": {"response_format": {"type": "structural_tag", "format": {"type": "tga"}}},
    "Expected `str`, got `null`": {"structured_outputs": {"structural_tag": {**TAG, "end": None}}},
}  # fmt: skip


@pytest.mark.parametrize(("fields", "grammar"), MEANS.values(), ids=MEANS)
def test_every_name_means_one_grammar(fields, grammar):
    assert grammar_of(fields) == grammar


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_is_refused_and_said(said):
    with pytest.raises(RequestError, match=said):
        grammar_of(WRONG[said])


def test_too_large_and_too_deep_grammars_are_refused():
    deep = {}
    for _ in range(200):
        deep = {"items": deep, "text": "}}}"}
    with pytest.raises(RequestError, match="levels deep"):
        encode(JsonSchema(deep))
    with pytest.raises(RequestError, match="bytes"):
        encode(Regex("a" * MOST_BYTES))


def test_an_answer_that_ends_with_its_grammar_cannot_ignore_its_end():
    with pytest.raises(RequestError, match="ignore_eos"):
        SamplingParams(grammar=OBJECT, ignore_eos=True)


@pytest.fixture(scope="module")
def live(checkpoint):
    live = LiveApi(checkpoint, lambda prompt, seed: [101, 102, 0])
    yield live
    live.close()


ROUTES = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "guided_json": SCHEMA,
        "max_tokens": 2,
    },
    "/v1/completions": {"model": MODEL, "prompt": "x", "guided_json": SCHEMA, "max_tokens": 2},
    "/generate": {"inputs": "x", "parameters": {"guided_json": SCHEMA, "max_new_tokens": 2}},
    "/generate_stream": {"inputs": "x", "parameters": {"guided_json": SCHEMA, "max_new_tokens": 2}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/generate", "/v1/messages"]
)
def test_a_grammar_that_allows_nothing_is_the_clients_mistake(start, path, stream):
    live = start()
    live.engine.forbids_all = True
    hello = {"messages": [{"role": "user", "content": "hello"}]}
    body = {
        "/v1/chat/completions": hello | {"regex": "a"},
        "/v1/completions": {"prompt": "a", "regex": "a", "n": 2},
        "/v1/responses": {"input": "a", "text": {"format": {"type": "json_object"}}},
        "/generate": {"inputs": "a", "parameters": {"regular_constraint": "a"}},
        "/v1/messages": hello | {"model": MODEL, "max_tokens": 5},
    }[path]
    if stream and path == "/generate":
        path = "/generate_stream"
    elif stream:
        body |= {"stream": True}
    answer = httpx.post(live.url + path, json=body, timeout=20, verify=False)
    assert answer.status_code == 400, answer.text
    assert "--mask_timeout_s" in answer.json()["error"]["message"]
    assert live.engine.is_idle()


@pytest.mark.parametrize("route", ROUTES)
def test_grammars_are_asked_about_once_and_go_with_the_request(live, route):
    live.engine.grammar_refusal = ""
    for _ in range(2):
        assert httpx.post(live.url + route, json=ROUTES[route]).status_code == 200
    record = live.engine.records[-1]
    data = live.engine.table.pages.read_bytes(int(record["grammar_page"]), 0, int(record["grammar_bytes"]))
    assert decode(data) == JsonSchema(SCHEMA)
    assert live.engine.grammars.count(data) == 1


@pytest.mark.parametrize("route", ROUTES)
def test_what_no_engine_can_enforce_is_a_400_before_anything_runs(live, route):
    live.engine.grammar_refusal = 'Unimplemented keys: ["uniqueItems"]'
    submitted = len(live.engine.records)
    body = msgspec.json.decode(msgspec.json.encode(ROUTES[route]).replace(b"integer", b"array"))
    for _ in range(2):
        response = httpx.post(live.url + route, json=body)
        assert response.status_code == 400
        assert "uniqueItems" in response.json()["error"]["message"]
    assert len(live.engine.records) == submitted


def test_without_the_process_requests_with_a_grammar_alone_are_refused(checkpoint):
    live = LiveApi(checkpoint, lambda prompt, seed: [101, 0], output_constraint_mode="none")
    try:
        body = ROUTES["/v1/completions"]
        refused = httpx.post(live.url + "/v1/completions", json=body)
        assert refused.status_code == 400
        assert "--output_constraint_mode=none" in refused.json()["error"]["message"]
        assert httpx.post(live.url + "/v1/completions", json=body | {"guided_json": None}).status_code == 200
    finally:
        live.close()
