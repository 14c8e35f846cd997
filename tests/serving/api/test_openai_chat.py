import base64
import json

import pytest
from openai import BadRequestError, OpenAI

from tests.serving import checkpoint_for_tests
from tests.serving.live_api import MODEL, client_of
from tests.serving.script_for_tests import count, text_for
from tests.serving.text.tokenizers_for_tests import byte_level

HELLO = [{"role": "user", "content": "hello"}]
RENDERED = "<|start|>user\nhello<|end|><|start|>assistant\n"


def chat(client: OpenAI, **options):
    return client.chat.completions.create(**({"model": MODEL, "messages": HELLO, "seed": 7} | options))


def chunks(client: OpenAI, **options) -> list:
    with chat(client, stream=True, **options) as stream:
        return list(stream)


def test_a_chat_answers_with_text_finish_and_usage(client):
    answer = chat(client)
    text = text_for(count(RENDERED), 7)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == count(RENDERED)
    assert answer.usage.completion_tokens == count(text) + 1
    assert answer.usage.prompt_tokens_details.cached_tokens == count(RENDERED) // 2


def test_a_stream_gives_the_same_in_pieces(client):
    pieces = chunks(client, stream_options={"include_usage": True})
    whole = chat(client)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert all(piece.object == "chat.completion.chunk" for piece in pieces)
    assert len({piece.id for piece in pieces}) == 1
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == "stop"
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    assert all(piece.usage is None for piece in pieces[:-1])


def test_usage_can_come_with_every_chunk(client):
    pieces = chunks(client, stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = [piece.usage.completion_tokens for piece in pieces]
    assert counts == sorted(counts)
    assert counts[-1] == chat(client).usage.completion_tokens


def test_a_stream_ends_with_done(http):
    body = {"messages": HELLO, "stream": True}
    lines = [line for line in http.post("/v1/chat/completions", json=body).text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert "usage" not in json.loads(lines[0][6:])


def test_samples_have_seeds_in_a_row(client):
    expected = [text_for(count(RENDERED), seed) for seed in (7, 8, 9)]
    assert [choice.message.content for choice in chat(client, n=3).choices] == expected
    streamed = ["", "", ""]
    for piece in chunks(client, n=3):
        streamed[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert streamed == expected
    assert chat(client, n=3).usage.prompt_tokens == count(RENDERED)


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_name_each_token_and_its_bytes(client, stream):
    options = {"logprobs": True, "top_logprobs": 2}
    if stream:
        pieces = [piece.choices[0] for piece in chunks(client, **options)]
        text = "".join(piece.delta.content or "" for piece in pieces)
        content = [entry for piece in pieces if piece.logprobs for entry in piece.logprobs.content]
    else:
        choice = chat(client, **options).choices[0]
        text, content = choice.message.content, choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == text + "<|end|>"
    assert any(entry.token.startswith("bytes:\\x") for entry in content), "some tokens are parts of characters"
    assert all(entry.token.encode() == bytes(entry.bytes) for entry in content if "bytes:" not in entry.token)
    assert [entry.logprob for entry in content] == [-0.5] * len(content)
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]
    assert content[0].top_logprobs[0].token == content[0].token


def test_prompt_logprobs_come_with_the_whole_answer(client):
    answer = chat(client, n=2, extra_body={"prompt_logprobs": 1})
    assert answer.prompt_logprobs[0] is None
    assert len(answer.prompt_logprobs) == answer.usage.prompt_tokens
    with pytest.raises(BadRequestError, match="prompt_logprobs"):
        chat(client, stream=True, extra_body={"prompt_logprobs": 1})


def test_logprobs_without_top_logprobs_are_of_the_chosen_tokens_only(client):
    content = chat(client, logprobs=True).choices[0].logprobs.content
    assert all(entry.top_logprobs == [] for entry in content)
    assert chat(client).choices[0].logprobs is None


def test_a_stop_string_ends_the_text_before_itself(client):
    choice = chat(client, stop=["nowhere", "seed"]).choices[0]
    assert choice.message.content == text_for(count(RENDERED), 7).split("seed")[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "seed")
    kept = chat(client, stop="seed", extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.message.content.endswith("seed")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_maximum_ends_the_answer(client, name):
    answer = chat(client, **{name: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_stop_token_ids_end_the_answer_and_eos_can_be_ignored(client):
    comma = byte_level().token_to_id(",")
    choice = chat(client, extra_body={"stop_token_ids": [comma]}).choices[0]
    assert choice.message.content.endswith("tokens")
    assert choice.stop_reason == comma
    assert chat(client, max_tokens=500, extra_body={"ignore_eos": True}).usage.completion_tokens == 500


def prompt_of(client: OpenAI, live, **options) -> str:
    """The prompt as it reached the engine."""
    chat(client, max_tokens=1, **options)
    return live.engine.tokenizer.decode(live.engine.prompts[-1], skip_special_tokens=False)


def test_content_may_come_in_parts(client, live):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    prompt = prompt_of(client, live, messages=[{"role": "user", "content": parts}])
    assert prompt == "<|start|>user\none\ntwo<|end|><|start|>assistant\n"


def test_developer_is_system_where_the_template_does_not_know_it(client, live):
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    assert prompt_of(client, live, messages=messages).startswith("<|start|>system\nBe brief.<|end|>")


def test_a_round_of_tool_calls_is_rendered(client, live):
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    prompt = prompt_of(client, live, messages=messages, tools=tools)
    assert prompt.startswith('<|start|>tools\n{"type": "function"')
    assert '<|start|>assistant\nadd{"a": 1}<|end|><|start|>tool\n2<|end|>' in prompt
    assert "<|start|>tools" not in prompt_of(client, live, messages=messages, tools=tools, tool_choice="none")
    old = [
        *HELLO,
        {"role": "assistant", "content": None, "function_call": call["function"]},
        {"role": "function", "name": "add", "content": "2"},
    ]
    assert prompt_of(client, live, messages=old, functions=[tools[0]["function"]]) == prompt


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_of_earlier_answers_reaches_the_template_by_either_name(start, tmp_path, name):
    folder = checkpoint_for_tests.write(
        tmp_path, template="{{ messages[0].reasoning_content }}{{ messages[0].content }}"
    )
    live = start(model_dir=folder)
    with client_of(live) as client:
        messages = [{"role": "assistant", "content": "So.", name: "Hmm. "}]
        assert prompt_of(client, live, messages=messages) == "Hmm. So."


def test_an_answer_can_be_sent_back_as_it_came(client, live):
    answer = chat(client, max_tokens=3).choices[0].message
    prompt = prompt_of(client, live, messages=[*HELLO, answer, *HELLO])
    assert prompt.count("<|start|>assistant\n") == 2


def test_the_final_message_can_be_continued(client, live):
    messages = [*HELLO, {"role": "assistant", "content": "Once upon "}]
    prompt = prompt_of(client, live, messages=messages, extra_body={"continue_final_message": True})
    assert prompt.endswith("<|start|>assistant\nOnce upon ")


def test_template_variables_are_passed_on(client, live):
    loud = {"chat_template_kwargs": {"shout": True}}
    assert prompt_of(client, live, extra_body=loud).endswith("<|start|>assistant\nLOUD ")
    silent = {"add_generation_prompt": False}
    assert prompt_of(client, live, extra_body=silent).endswith("hello<|end|>")


REFUSED = {
    "logit_bias": {"5": 101},
    "prompt_cache_retention": "24h",
    "typical_p": 0,
    "response_format": {"type": "xml"},
    "tool_choice": "required",
    "modalities": ["audio"],
    "guided_json": "{",
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "stream_options": {"include_usage": True},
    "tools": [{"type": "retrieval"}],
    "wholly_unknown": 1,
    "n": 0,
    "temperature": -1,
    "top_p": 0,
    "max_tokens": 0,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(client, name):
    with pytest.raises(BadRequestError, match=name.replace("tools", r"tools\[0\]")) as caught:
        chat(client, extra_body={name: REFUSED[name]})
    assert caught.value.type == "invalid_request_error"
    assert name in caught.value.param


def test_a_variable_that_the_template_lacks_is_refused_by_name(client):
    with pytest.raises(BadRequestError, match="it has: shout") as caught:
        chat(client, extra_body={"chat_template_kwargs": {"unheard_of": 1}})
    assert caught.value.param == "unheard_of"


def test_what_says_nothing_is_accepted(client):
    neutral = {"logit_bias": {}, "response_format": {"type": "text"}, "tool_choice": "auto", "guided_json": None}
    harmless = {"user": "me", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "n": None}
    assert chat(client, extra_body=neutral | harmless).choices[0].finish_reason == "stop"


BAD_MESSAGES = {
    "none": [],
    "no role": [{"content": "x"}],
    "a role that nobody knows": [{"role": "fail", "content": "x"}],
    "an image": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
    "a number": [{"role": "user", "content": 5}],
    "tool calls that are none": [{"role": "assistant", "tool_calls": [{"name": "x"}]}],
}


@pytest.mark.parametrize("messages", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_bad_messages_are_refused(client, messages):
    with pytest.raises(BadRequestError) as caught:
        chat(client, messages=messages)
    assert caught.value.param.startswith("messages")


def test_a_template_may_refuse_messages(start, tmp_path):
    folder = checkpoint_for_tests.write(tmp_path, template="{{ raise_exception('only one message') }}")
    with client_of(start(model_dir=folder)) as client, pytest.raises(BadRequestError, match="only one message"):
        chat(client)


def test_without_a_template_the_error_says_what_to_do(start, tmp_path):
    folder = checkpoint_for_tests.write(tmp_path, template=None)
    with client_of(start(model_dir=folder)) as client, pytest.raises(BadRequestError, match="--chat_template"):
        chat(client)


def test_an_image_as_base64_is_not_echoed(client):
    image = base64.b64encode(bytes(1_000_000)).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}]
    with pytest.raises(BadRequestError, match="text only") as caught:
        chat(client, messages=[{"role": "user", "content": content}])
    assert len(caught.value.message) < 2000
