import pytest

from tests.serving.live_api import MODEL
from tests.serving.text.tokenizers_for_tests import byte_level

HELLO = [{"role": "user", "content": "hello"}]


def post(http, path: str, body: dict, status: int = 200) -> dict:
    response = http.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def test_a_text_goes_to_tokens_and_back(http, live):
    text = "Größe 世界 <|end|>"
    answer = post(http, "/tokenize", {"model": MODEL, "prompt": text})
    assert answer["tokens"] == byte_level().encode(text).ids
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == live.engine.max_length
    assert answer["token_strs"] is None
    assert post(http, "/detokenize", {"tokens": answer["tokens"]}) == {"prompt": text}
    assert post(http, "/detokenize", {"tokens": []}) == {"prompt": ""}


@pytest.mark.parametrize("path", ["/tokenize", "/v1/models", f"/v1/models/{MODEL}"])
def test_how_long_requests_may_be_is_not_told_before_it_is_known(start, http, path):
    live = start(engine={"max_length": 0})
    answer = http.get(live.url + path) if "models" in path else http.post(live.url + path, json={"prompt": "a"})
    assert answer.status_code == 503
    assert "not started" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]


def test_tokens_are_named_on_demand(http):
    answer = post(http, "/tokenize", {"prompt": "a 世", "return_token_strs": True})
    assert len(answer["token_strs"]) == answer["count"]
    assert answer["token_strs"][0] == "a"


def test_messages_are_tokenized_as_the_model_sees_them(http, live, client):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    answer = post(http, "/tokenize", {"messages": HELLO, "tools": tools, "chat_template_kwargs": {"shout": True}})
    client.chat.completions.create(
        model=MODEL, messages=HELLO, tools=tools, max_tokens=1, extra_body={"chat_template_kwargs": {"shout": True}}
    )
    assert answer["tokens"] == live.engine.prompts[-1]
    bare = post(http, "/tokenize", {"messages": HELLO, "add_generation_prompt": False})
    assert post(http, "/detokenize", {"tokens": bare["tokens"]})["prompt"] == "<|start|>user\nhello<|end|>"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": HELLO}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "unknown": 1}, "unknown"),
        ({"prompt": "a", "model": "other"}, "model"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(http, body, param):
    answer = post(http, "/tokenize", body, status=404 if param == "model" else 400)
    assert answer["error"]["param"] == param


def test_a_token_that_does_not_exist_is_refused(http):
    for token in (-1, 10**9):
        assert post(http, "/detokenize", {"tokens": [token]}, status=400)["error"]["param"] == "tokens"
