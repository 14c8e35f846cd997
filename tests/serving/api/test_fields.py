"""Fields of requests reach the engine as they were meant, and answers say what was asked for, on all three routes."""

import json
from pathlib import Path

import numpy as np
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

import lightllm
from lightllm.base.token_words import mask_of, pack
from lightllm.serving.api.native import Parameters
from lightllm.serving.api.openai_chat import ChatBody
from lightllm.serving.api.openai_completions import CompletionBody
from tests.serving import checkpoint_for_tests
from tests.serving.script_for_tests import answer
from tests.serving.text.tokenizers_for_tests import byte_level

PROMPT = "one two three four five six"
CHAT = {"messages": [{"role": "user", "content": PROMPT}]}
BASES = {"/v1/chat/completions": CHAT, "/v1/completions": {"prompt": PROMPT}, "/generate": {"inputs": PROMPT}}
routes = pytest.mark.parametrize("route", BASES)
openai_routes = pytest.mark.parametrize("route", list(BASES)[:2])


def body_of(route, fields):
    return BASES[route] | ({"parameters": fields} if route == "/generate" else fields)


@pytest.fixture
def ask(live, http):
    def send(route, **fields):
        response = http.post(route, json=body_of(route, fields))
        assert response.status_code == 200, response.text
        assert live.engine.is_idle()
        return response.json()

    return send


@pytest.fixture
def asked(live, ask):
    """What the engine is asked: the record and the options."""

    def send(route, **fields):
        ask(route, **fields)
        return live.engine.records[-1], live.engine.options[-1]

    return send


def words_of(text):
    return byte_level().encode(text).ids


@routes
def test_sampling_parameters_reach_the_engine(asked, route):
    record, _ = asked(route, typical_p=0.25, exponential_decay_length_penalty=[7, 1.5], min_p=0.5, top_k=9)
    assert (record["typical_p"], record["min_p"], record["top_k"]) == (0.25, 0.5, 9)
    assert (record["decay_start"], record["decay_factor"]) == (7, 1.5)


@routes
def test_biases_and_choices_reach_the_engine(asked, route):
    vocabulary = 32 * len(np.frombuffer(asked(route, allowed_token_ids=[1, 40])[1].token_words.words, np.int32))
    assert asked(route, allowed_token_ids=[1, 40])[1].token_words == pack(mask=mask_of([1, 40], vocabulary))
    bias = {"7": -100, "9": 0.5}
    assert asked(route, logit_bias=bias)[1].token_words == pack(biases=[((7,), -100.0), ((9,), 0.5)])
    assert asked(route, logit_bias={}, bad_words=[])[1].token_words == pack()


@routes
def test_bad_words_are_refused_their_last_token_in_both_ways_to_write_them(asked, route):
    ways = [words_of("the"), words_of(" the"), words_of("tokens"), words_of(" tokens")]
    assert asked(route, bad_words=["the", " tokens"])[1].token_words == pack(biases=[(way, -np.inf) for way in ways])


@routes
def test_a_prompt_may_be_cut(asked, live, route):
    asked(route)
    whole = live.engine.prompts[-1]
    for fields, expected in [
        ({"truncate_prompt_tokens": 4}, whole[-4:]),
        ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, whole[:4]),
        ({"truncate_prompt_tokens": -1}, whole),
    ]:
        asked(route, **fields)
        assert live.engine.prompts[-1] == expected


def test_too_long_a_prompt_is_refused_or_cut_as_server_and_request_say(start, http):
    live = start(answer, long_truncation_mode="center", max_req_total_len=4096, engine={"max_length": 20})
    ids = list(range(1, 101))
    for fields, expected in [
        ({}, ids[:7] + ids[-8:]),
        ({"long_truncation_mode": "head"}, ids[-15:]),
        ({"long_truncation_mode": "tail"}, ids[:15]),
    ]:
        body = {"prompt": ids, "max_tokens": 5} | fields
        assert http.post(live.url + "/v1/completions", json=body).json()["usage"]["prompt_tokens"] == 15
        assert live.engine.prompts[-1] == expected
    refused = http.post(live.url + "/v1/completions", json={"prompt": ids, "max_tokens": 5, "echo": True})
    assert refused.status_code == 400
    body = {"prompt": ids, "max_tokens": 5, "long_truncation_mode": "none"}
    assert "100 prompt tokens" in http.post(live.url + "/v1/completions", json=body).json()["error"]["message"]


@routes
def test_a_salt_parts_the_cache(asked, route):
    salts = [int(asked(route, **fields)[0]["salt"]) for fields in ({}, {"cache_salt": "a"}, {"cache_salt": "b"})]
    assert len(set(salts)) == 3
    assert int(asked(route, cache_salt="a")[0]["salt"]) == salts[1]


@openai_routes
def test_token_ids_come_with_the_answer(ask, http, live, route):
    whole = ask(route, return_token_ids=True, seed=3, n=2)
    prompt = live.engine.prompts[-1]
    outputs = [answer(prompt, 3), answer(prompt, 4)]
    assert [choice["token_ids"] for choice in whole["choices"]] == outputs
    given = whole["prompt_token_ids"] if "chat" in route else whole["choices"][1]["prompt_token_ids"]
    assert given == prompt
    streamed, prompts = [[], []], []
    body = BASES[route] | {"return_token_ids": True, "seed": 3, "n": 2, "stream": True, "logprobs": 1}
    body["logprobs"] = True if "chat" in route else 1
    for line in http.post(route, json=body).text.split("\n\n")[:-2]:
        chunk = json.loads(line.removeprefix("data: "))
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice.get("token_ids", [])
            prompts += [one["prompt_token_ids"] for one in (chunk, choice) if "prompt_token_ids" in one]
    assert streamed == outputs
    assert prompts == [prompt, prompt], "once for each choice"
    assert "token_ids" not in ask(route)["choices"][0]


@openai_routes
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_may_name_tokens_by_their_ids(http, live, route, stream):
    body = {"logprobs": True, "top_logprobs": 2} if "chat" in route else {"logprobs": 2, "echo": True}
    body |= BASES[route] | {"return_tokens_as_token_ids": True, "seed": 3, "stream": stream}
    text = http.post(route, json=body).text
    answers = [line.removeprefix("data: ") for line in text.split("\n\n")[:-2]] if stream else [text]
    found = [json.loads(one)["choices"][0]["logprobs"] for one in answers]
    prompt = live.engine.prompts[-1]
    if "chat" in route:
        tokens = [token for logprobs in found if logprobs for token in logprobs["content"]]
        names, likeliest = [token["token"] for token in tokens], tokens[0]["top_logprobs"][1]["token"]
        expected = answer(prompt, 3)
    else:
        names = [name for logprobs in found if logprobs for name in logprobs["tokens"]]
        likeliest, expected = list(found[0]["top_logprobs"][-1])[1], prompt + answer(prompt, 3)
    assert names == [f"token_id:{token}" for token in expected]
    assert likeliest.startswith("token_id:")


def test_token_ids_come_with_the_native_answer(ask, live):
    got = ask("/generate", return_token_ids=True, seed=3)
    assert got["prompt_token_ids"] == live.engine.prompts[-1]
    assert got["token_ids"] == [answer(got["prompt_token_ids"], 3)]


@openai_routes
def test_answers_name_the_system_and_the_tier_that_served_them(ask, http, start, route):
    whole = ask(route, service_tier="flex")
    assert whole["service_tier"] == "default"
    stream = http.post(route, json=BASES[route] | {"stream": True, "service_tier": "auto"}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream[:-2]]
    assert {(c["system_fingerprint"], c["service_tier"]) for c in chunks} == {(whole["system_fingerprint"], "default")}
    assert "service_tier" not in ask(route)
    other = start(answer, max_req_total_len=2048)
    assert http.post(other.url + route, json=BASES[route]).json()["system_fingerprint"] != whole["system_fingerprint"]


REFUSED = {
    "logit_bias": {"logit_bias": {"1000000": 1}},
    "stop_token_ids": {"stop_token_ids": [10**6]},
    "allowed_token_ids": {"allowed_token_ids": [5, 10**6]},
    "bad_words": {"bad_words": [""]},
    "truncate_prompt_tokens": {"truncate_prompt_tokens": 0},
    "truncation_side": {"truncation_side": "middle"},
    "truncation_side=": {"truncation_side": "right"},
    "long_truncation_mode": {"long_truncation_mode": "all"},
    "cache_salt": {"cache_salt": ""},
    "service_tier": {"service_tier": "gold"},
    "metadata": {"metadata": {"a": 1}},
    "documents": {"documents": [{"text": "x"}]},
    "moderation": {"moderation": {"model": "any"}},
    "prompt_cache_options": {"prompt_cache_options": {"ttl": "12h"}},
    "reasoning_effort": {"reasoning_effort": "none"},
    "messages": {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "voice": 1}]}]},
    "messages[0]": {"messages": [{"role": "assistant", "audio": {"id": "a"}, "content": "x"}]},
    "user": {"user": ["me"]},
    "best_of": {"best_of": 2, "stream": True},
    "role_settings": {"role_settings": {"a": "b"}},
    "ebnf": {"ebnf": 5},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_allowed_is_refused_by_name(http, name):
    answer = http.post("/v1/chat/completions", json=CHAT | REFUSED[name])
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(name.rstrip("="))


def test_text_completions_are_not_stored(http):
    answer = http.post("/v1/completions", json={"prompt": "a", "store": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "store")
    assert http.post("/v1/completions", json={"prompt": "a", "store": False, "metadata": {"a": "b"}}).status_code == 200


@routes
def test_do_sample_says_whether_tokens_are_drawn(start, http, tmp_path, route):
    live = start(answer, model_dir=checkpoint_for_tests.write(tmp_path, generation={"do_sample": False}))
    for fields, expected in (({}, 0), ({"do_sample": True}, 1), ({"do_sample": False, "temperature": 0.5}, 0)):
        assert http.post(live.url + route, json=body_of(route, fields)).status_code == 200
        assert live.engine.records[-1]["temperature"] == expected


@openai_routes
def test_the_best_of_several_samples_is_the_answer(ask, live, route):
    got = ask(route, best_of=3, seed=3)
    assert len(got["choices"]) == 1
    assert {int(record["seed"]) for record in live.engine.records[-3:]} == {3, 4, 5}
    assert got["usage"]["completion_tokens"] == sum(len(answer(live.engine.prompts[-1], seed)) for seed in (3, 4, 5))
    assert got["choices"][0]["logprobs"] is None


@openai_routes
def test_usage_may_come_with_every_chunk_and_with_no_more(http, route):
    body = BASES[route] | {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    chunks = [json.loads(line.removeprefix("data: ")) for line in http.post(route, json=body).text.split("\n\n")[:-2]]
    assert all(chunk["choices"] and chunk["usage"]["prompt_tokens"] for chunk in chunks)
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_settings_of_roles_go_to_the_template(start, http, tmp_path):
    template = "{{ role_settings.name }} {{ character_settings.mood }} {{ messages[0].content }}"
    live = start(answer, model_dir=checkpoint_for_tests.write(tmp_path, template=template))
    settings = {"role_settings": {"name": "Ann"}, "character_settings": {"mood": "merry"}}
    assert http.post(live.url + "/v1/chat/completions", json=CHAT | settings).status_code == 200
    assert live.engine.tokenizer.decode(live.engine.prompts[-1]) == f"Ann merry {PROMPT}"


@pytest.mark.parametrize("message", [{"refusal": "no"}, {"content": [{"type": "refusal", "refusal": "no"}]}])
def test_what_an_assistant_refused_is_what_it_said(ask, live, message):
    ask("/v1/chat/completions", messages=[{"role": "assistant"} | message])
    assert "<|start|>assistant\nno<|end|>" in live.engine.tokenizer.decode(live.engine.prompts[-1], False)


def test_every_field_of_the_official_client_is_known():
    for body, module in ((ChatBody, chat_create_params), (CompletionBody, completion_create_params)):
        assert set(body.__struct_fields__) >= module.CompletionCreateParamsBase.__annotations__.keys()


@pytest.mark.parametrize("body", [ChatBody, CompletionBody, Parameters], ids=lambda body: body.__name__)
def test_the_documentation_names_every_field(body):
    page = (Path(lightllm.__file__).parent.parent / "docs" / "api.md").read_text()
    assert [name for name in body.__struct_fields__ if f"`{name}`" not in page] == []


def test_no_effort_switches_reasoning_off_where_the_template_has_a_switch(start, http, tmp_path):
    template = "{{ messages[0].content }}{% if not enable_thinking %} at once{% endif %}"
    live = start(answer, model_dir=checkpoint_for_tests.write(tmp_path, template=template))
    for effort, status in (("none", 200), ("low", 400)):
        asked = http.post(live.url + "/v1/chat/completions", json=CHAT | {"reasoning_effort": effort})
        assert asked.status_code == status
    assert live.engine.tokenizer.decode(live.engine.prompts[-1]) == PROMPT + " at once"


def test_marks_of_the_cache_are_taken_as_they_are_meant(ask):
    marks = {"prompt_cache_breakpoint": {"mode": "explicit"}, "cache_control": {"type": "ephemeral"}}
    content = [{"type": "text", "text": PROMPT} | marks]
    ask("/v1/chat/completions", messages=[{"role": "user", "content": content}])


@openai_routes
@pytest.mark.parametrize("usage", [False, True])
def test_with_obfuscation_chunks_are_filled_up(http, route, usage):
    options = {"include_obfuscation": True, "include_usage": usage}
    body = BASES[route] | {"stream": True, "stream_options": options, "seed": 3}
    chunks = http.post(route, json=body).text.encode().split(b"\n\n")[: -3 if usage else -2]
    assert {len(chunk) % 128 for chunk in chunks} == {1}
    assert all("obfuscation" in json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks)
    plain = http.post(route, json=body | {"stream_options": {"include_obfuscation": False}}).text
    assert "obfuscation" not in plain
