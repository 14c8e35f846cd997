"""--use_tgi_api, as the hub's client sees it."""

import json

import httpx
import pytest
from huggingface_hub import InferenceClient

from lightllm.base.grammar import JsonSchema, Regex, decode
from tests.serving.live_api import MODEL, LiveApi
from tests.serving.script_for_tests import answer, count, text_for

INPUTS = "hello"
TEXT = text_for(count(INPUTS), 7)


@pytest.fixture(scope="module")
def server(checkpoint):
    live = LiveApi(checkpoint, answer, use_tgi_api=True)
    yield live
    live.close()


@pytest.fixture
def post(server):
    def post(path="/generate", *, status=200, **body) -> httpx.Response:
        response = httpx.post(server.url + path, json={"inputs": INPUTS} | body, timeout=20, verify=False)
        assert response.status_code == status, response.text
        return response

    yield post
    assert server.engine.is_idle(), "every request was released"


def test_a_prompt_is_continued(post):
    assert post(parameters={"seed": 7}).json() == {"generated_text": TEXT}
    assert post("/", parameters={"seed": 7}).json() == [{"generated_text": TEXT}]
    assert post(parameters={"seed": 7, "return_full_text": True}).json() == {"generated_text": INPUTS + TEXT}


def test_details_tell_of_each_token(post):
    parameters = {"seed": 7, "details": True, "decoder_input_details": True, "top_n_tokens": 2}
    details = post(parameters=parameters).json()["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("eos_token", count(TEXT) + 1, 7)
    assert len(details["tokens"]) == details["generated_tokens"]
    assert details["tokens"][-1] == {
        "id": details["tokens"][-1]["id"],
        "text": "<|end|>",
        "logprob": -0.5,
        "special": True,
    }
    assert "".join(token["text"] for token in details["prefill"]) == INPUTS
    assert details["prefill"][0]["logprob"] is None
    assert [token["logprob"] for token in details["top_tokens"][0]] == [-0.5, -1.5]


def test_the_best_of_several_comes_first(post):
    details = post(parameters={"seed": 7, "best_of": 3, "do_sample": True, "details": True}).json()["details"]
    [second, third] = details["best_of_sequences"]
    assert {second["generated_text"], third["generated_text"]} < {text_for(count(INPUTS), seed) for seed in (7, 8, 9)}


def test_why_an_answer_ended_is_told(post):
    cut = post(parameters={"max_new_tokens": 3, "details": True}).json()
    assert cut["details"]["finish_reason"] == "length"
    stopped = post(parameters={"stop": ["seed"], "seed": 7, "details": True}).json()
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"] == TEXT.split("seed")[0] + "seed"


@pytest.mark.parametrize("path", ["/generate_stream", "/"])
def test_a_stream_tells_token_by_token(post, path):
    body = {"stream": True} if path == "/" else {}
    text = post(path, parameters={"seed": 7, "details": True}, **body).text
    events = [json.loads(line.removeprefix("data:")) for line in text.split("\n\n") if line]
    assert [event["index"] for event in events] == list(range(1, count(TEXT) + 2))
    assert "".join(event["token"]["text"] for event in events) == TEXT
    *others, last = events
    assert all(event["generated_text"] is None is event["details"] for event in others)
    assert last["generated_text"] == TEXT
    expected = {"finish_reason": "eos_token", "generated_tokens": count(TEXT) + 1, "seed": 7}
    assert last["details"] == expected | {"input_length": count(INPUTS)}


def test_the_hubs_client_takes_it(server, post):
    client = InferenceClient(server.url)
    whole = client.text_generation(INPUTS, seed=7, details=True, stream=False)
    assert (whole.generated_text, whole.details.finish_reason) == (TEXT, "eos_token")
    pieces = list(client.text_generation(INPUTS, seed=7, details=True, stream=True))
    assert "".join(piece.token.text for piece in pieces) == TEXT
    assert pieces[-1].details.generated_tokens == len(pieces)


def test_prompts_are_cut_at_their_beginning(server, post):
    post(inputs="one two three", parameters={"truncate": 2, "max_new_tokens": 1})
    assert server.engine.prompts[-1] == server.engine.tokenizer.encode("one two three").ids[-2:]


def test_a_grammar_goes_with_the_request(server, post):
    for value, means in (
        ({"type": "regex", "value": "a+"}, Regex("a+")),
        ({"type": "json", "value": {}}, JsonSchema({})),
    ):
        post(parameters={"grammar": value, "max_new_tokens": 1})
        record = server.engine.records[-1]
        data = server.engine.table.pages.read_bytes(int(record["grammar_page"]), 0, int(record["grammar_bytes"]))
        assert decode(data) == means


def test_greedy_unless_it_is_to_sample(server, post):
    for parameters, temperature in (({}, 0), ({"do_sample": True}, 1), ({"top_k": 5}, 1), ({"temperature": 0.5}, 0.5)):
        post(parameters=parameters | {"max_new_tokens": 1})
        assert server.engine.records[-1]["temperature"] == temperature


def test_what_is_served_is_told(server):
    info = httpx.get(server.url + "/info", verify=False).json()
    assert (info["model_id"], info["max_total_tokens"]) == (MODEL, server.engine.max_length)


@pytest.mark.parametrize(
    "parameters",
    [{"watermark": True}, {"grammar": {"type": "lark", "value": "a"}}, {"wholly_unknown": 1}, {"temperature": -1}],
)
def test_what_cannot_be_honoured_is_refused_in_their_words(post, parameters):
    error = post(status=400, parameters=parameters).json()
    assert error["error_type"] == "validation"
    assert next(iter(parameters)) in error["error"]


@pytest.mark.parametrize("parameters", [{"best_of": 2, "do_sample": True}, {"decoder_input_details": True}])
def test_what_does_not_stream_is_refused(post, parameters):
    assert "stream" in post("/generate_stream", status=400, parameters=parameters).json()["error"]
