import json

import pytest

from tests.serving.script_for_tests import count, text_for

INPUTS = "The quick brown fox"
PARAMETERS = {"seed": 5}
TEXT = text_for(count(INPUTS), 5)


def generate(http, path="/generate", **parameters):
    response = http.post(path, json={"inputs": INPUTS, "parameters": PARAMETERS | parameters})
    assert response.status_code == 200, response.text
    return response.json()


def events(http, path="/generate_stream", **body) -> list[dict]:
    response = http.post(path, json={"inputs": INPUTS, "parameters": PARAMETERS} | body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data:{") for block in blocks)
    return [json.loads(block[5:]) for block in blocks]


def test_generate_gives_lists_of_text_and_counts(http):
    assert generate(http) == {
        "generated_text": [TEXT],
        "count_output_tokens": count(TEXT) + 1,
        "finish_reason": "stop",
        "prompt_tokens": count(INPUTS),
    }


def test_the_best_n_of_best_of_are_the_answer(http):
    everything = generate(http, best_of=3, max_new_tokens=4)
    assert generate(http, n=1, best_of=3, max_new_tokens=4)["generated_text"] == everything["generated_text"][:1]


def test_prompt_logprobs_come_with_the_answer(http):
    answer = generate(http, prompt_logprobs=1, best_of=2, max_new_tokens=1)
    assert len(answer["prompt_logprobs"]) == count(INPUTS)
    assert answer["prompt_logprobs"][0] is None
    refused = http.post("/generate_stream", json={"inputs": "a", "parameters": {"prompt_logprobs": 1}})
    assert refused.status_code == 400


def test_beams_are_searched_for_as_asked(http, live):
    answer = generate(http, use_beam_search=True, best_of=3, n=1, max_new_tokens=3)
    assert len(answer["generated_text"]) == 1
    assert live.engine.options[-1].beams.width == 3
    refused = http.post("/generate_stream", json={"inputs": "a", "parameters": {"use_beam_search": True}})
    assert refused.status_code == 400


def test_best_of_makes_every_field_a_list(http):
    answer = generate(http, best_of=2, max_new_tokens=4, return_details=True)
    assert len(answer["generated_text"]) == 2
    assert answer["count_output_tokens"] == [4, 4]
    assert answer["finish_reason"] == ["length", "length"]
    assert [len(tokens) for tokens in answer["tokens"]] == [4, 4]


def test_details_describe_each_token(http):
    tokens = generate(http, return_details=True)["tokens"]
    assert [token["count_output_tokens"] for token in tokens] == list(range(1, count(TEXT) + 2))
    assert tokens[-1]["special"]
    assert tokens[1] == {
        "id": tokens[1]["id"],
        "text": "öße",
        "logprob": -0.5,
        "cumlogprob": -1.0,
        "special": False,
        "count_output_tokens": 2,
        "prompt_tokens": count(INPUTS),
    }


def test_a_stream_has_an_event_per_token(http):
    found = events(http)
    assert "".join(event["token"]["text"] for event in found) == TEXT
    assert [event["token"]["count_output_tokens"] for event in found] == list(range(1, count(TEXT) + 2))
    assert all(event["generated_text"] is None and event["details"] is None for event in found)
    assert [event["finished"] for event in found] == [False] * (len(found) - 1) + [True]
    assert [event["finish_reason"] for event in found] == [None] * (len(found) - 1) + ["stop"]
    assert set(found[0]["token"]) >= {"id", "text", "logprob", "special", "count_output_tokens", "prompt_tokens"}


def test_the_root_streams_if_told_to(http):
    assert "".join(event["token"]["text"] for event in events(http, "/", stream=True)) == TEXT
    assert generate(http, "/")["generated_text"] == [TEXT]


def test_inputs_may_be_token_ids(http):
    response = http.post("/generate", json={"inputs": [1, 2, 3], "parameters": {"seed": 5}})
    assert response.json()["generated_text"] == [text_for(3, 5)]


@pytest.mark.parametrize("stop", ["seed", ["nowhere", "seed"], [[300, 300], "seed"]])
def test_stop_sequences_end_the_text(http, stop):
    assert generate(http, stop_sequences=stop)["generated_text"] == [TEXT.split("seed")[0]]


def test_a_stop_sequence_may_be_a_token(http):
    first = generate(http, return_details=True, max_new_tokens=3)["tokens"]
    assert generate(http, stop_sequences=[[first[2]["id"]]])["count_output_tokens"] == 3


SAMPLING = {
    "nothing": ({}, 0.0),
    "do_sample": ({"do_sample": True}, 1.0),
    "greedy though a temperature is given": ({"do_sample": False, "temperature": 0.7}, 0.0),
    "a temperature": ({"temperature": 0.7}, 0.7),
    "top_p": ({"top_p": 0.5}, 1.0),
}


@pytest.mark.parametrize(("parameters", "temperature"), SAMPLING.values(), ids=SAMPLING)
def test_sampling_is_greedy_unless_asked_for(http, live, parameters, temperature):
    http.post("/generate", json={"inputs": INPUTS, "parameters": parameters})
    assert live.engine.records[-1]["temperature"] == pytest.approx(temperature)


REFUSED = {
    "guided_json": "{",
    "regular_constraint": 1,
    "allowed_token_ids": [10**6],
    "print_eos_token": True,
    "exponential_decay_length_penalty": [2, 0.5],
    "unheard_of": 1,
    "best_of": 0,
    "max_new_tokens": 0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(http, name):
    response = http.post("/generate", json={"inputs": "a", "parameters": {name: REFUSED[name]}})
    assert response.status_code == 400
    assert name.replace("best_of", "n") in response.json()["error"]["message"]


def test_parameters_that_say_nothing_are_accepted(http):
    neutral = {"guided_json": "", "allowed_token_ids": [], "exponential_decay_length_penalty": [1, 1.0], "top_k": -1}
    assert generate(http, **neutral)["finish_reason"] == "stop"


def test_media_and_several_streamed_samples_are_refused(http):
    media = {"inputs": "a", "multimodal_params": {"images": [{"type": "url", "data": "x"}]}}
    assert http.post("/generate", json=media).status_code == 400
    assert http.post("/generate", json=media | {"multimodal_params": {"images": []}}).status_code == 200
    assert http.post("/generate_stream", json={"inputs": "a", "parameters": {"best_of": 2}}).status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_tokens_are_counted(http, method):
    response = http.request(method, "/tokens", json={"text": INPUTS, "parameters": {"add_special_tokens": False}})
    assert response.json() == {"ntokens": count(INPUTS)}
