"""The official client against a real server on the bundled model, warnings being errors."""

import asyncio
import json
from typing import Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from tests.end_to_end.conftest import LONGEST
from tests.end_to_end.serving import eventually
from tests.end_to_end.workload import MODEL


@pytest.fixture
def client(server):
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_chat_answers_a_sum(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("What is 25 + 17?"), temperature=0)
    assert "42" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_equals_whole_chat(client):
    options = {"model": MODEL, "messages": ask("Count from 1 to 12."), "temperature": 0}
    whole = client.chat.completions.create(**options)
    with client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def test_the_bundled_model_calls_a_tool_and_answers_from_its_result(client):
    messages = ask("What is the weather in Paris?")
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], temperature=0)
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'}
    messages += [answer.choices[0].message, result]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], temperature=0)
    assert "21" in answer.choices[0].message.content


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_ends_with_its_only_call_whatever_the_model_goes_on_with(server, client, is_streamed):
    asked = {"model": MODEL, "messages": ask("What is the weather in Paris?"), "tools": [WEATHER], "temperature": 0}
    asked |= {"parallel_tool_calls": False, "max_tokens": 400, "extra_body": {"ignore_eos": True}}
    if is_streamed:
        with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            answer = stream.get_final_completion()
    else:
        answer = client.chat.completions.create(**asked)
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.usage.completion_tokens < 50
    assert eventually(lambda: server.metric("batch_current_size") == 0)


def test_completions_answer_a_list_of_prompts_in_order(client):
    answer = client.completions.create(model=MODEL, prompt=["one two", "1 2 3 4 5"], max_tokens=5, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    alone = client.completions.create(model=MODEL, prompt="1 2 3 4 5", max_tokens=5, temperature=0)
    assert answer.choices[1].text == alone.choices[0].text


def test_three_seeded_samples_are_repeatable(client):
    options = {"model": MODEL, "messages": ask("Tell me about LightLLM."), "n": 3, "seed": 7, "temperature": 1.0}
    first, second = (client.chat.completions.create(**options, max_tokens=40) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(texts) == 3


def test_logprobs_name_the_tokens_of_the_text(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=ask("What is 3 + 4?"), temperature=0, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert answer.choices[0].message.content == "".join(
        bytes(token.bytes).decode() for token in content if not token.token.startswith("<|")
    )
    assert all(token.logprob == token.top_logprobs[0].logprob and token.logprob <= 0 for token in content)


def test_stop_string_ends_the_text_before_itself(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("Count from 1 to 12."), temperature=0, stop=["7"])
    assert "6" in answer.choices[0].message.content
    assert "7" not in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_no_max_tokens_runs_to_what_model_and_pool_allow(client):
    answer = client.completions.create(
        model=MODEL, prompt="1 2 3", temperature=0, extra_body={"ignore_eos": True, "stop_token_ids": []}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == LONGEST


def test_an_explicit_maximum_that_is_too_large_is_refused(client):
    with pytest.raises(BadRequestError, match="max_tokens"):
        client.completions.create(model=MODEL, prompt="1 2 3", max_tokens=1_000_000)


def test_an_unknown_model_is_named(client):
    with pytest.raises(NotFoundError, match="no-such-model"):
        client.chat.completions.create(model="no-such-model", messages=ask("hello"))


def test_the_model_is_listed_and_found(client):
    assert [model.id for model in client.models.list().data] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_the_streaming_helper_puts_calls_together(client):
    with client.chat.completions.stream(
        model=MODEL, messages=ask("What is the weather in Paris?"), tools=[WEATHER], temperature=0
    ) as stream:
        kinds = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds


async def test_the_asynchronous_client_gets_the_same_answers(server, client):
    options = {"model": MODEL, "messages": ask("Count from 1 to 12."), "temperature": 0}
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as asynchronous:
        answers = await asyncio.gather(*[asynchronous.chat.completions.create(**options) for _ in range(4)])
        stream = await asynchronous.chat.completions.create(**options, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert {answer.choices[0].message.content for answer in answers} == {streamed}


def test_a_stream_may_be_left_and_the_server_goes_on(server, client):
    options = {"model": MODEL, "prompt": "1 2 3", "extra_body": {"ignore_eos": True}}
    with client.completions.create(**options, stream=True) as stream:
        next(iter(stream))
    assert eventually(lambda: server.metric("batch_current_size") == 0)


def test_the_clients_own_request_id_comes_back(client):
    raw = client.models.with_raw_response.list(extra_headers={"x-request-id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1"
    assert client.models.list()._request_id


class Weather(BaseModel):
    condition: Literal["sunny", "cloudy", "rainy"]
    wind: Literal["none", "some", "much"]


def test_answers_are_parsed_as_objects_of_a_type(client):
    model, question = {"model": MODEL, "temperature": 1}, "What is the weather?"
    chat = {"messages": ask(question), "response_format": Weather} | model
    assert isinstance(client.chat.completions.parse(**chat).choices[0].message.parsed, Weather)
    with client.chat.completions.stream(**chat) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)
    assert isinstance(client.responses.parse(input=question, text_format=Weather, **model).output_parsed, Weather)


def test_a_stored_chat_is_found_by_its_metadata(client):
    asked = {"model": MODEL, "messages": ask("What is 25 + 17?"), "temperature": 0, "metadata": {"topic": "sums"}}
    chunks = list(client.chat.completions.create(**asked, store=True, stream=True))
    [found] = client.chat.completions.list(metadata={"topic": "sums"})
    assert found.id == chunks[0].id
    assert "42" in found.choices[0].message.content
    client.chat.completions.delete(found.id)


def test_a_response_is_kept_and_gone_on_with(client):
    first = client.responses.create(model=MODEL, input="What is 25 + 17?", temperature=0)
    assert "42" in first.output_text
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(
        model=MODEL, input="Count from 1 to 12.", previous_response_id=first.id, temperature=0
    )
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.id)


def test_a_streamed_response_equals_the_whole(client):
    asked = {"model": MODEL, "input": "Count from 1 to 12.", "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == whole.output_text


def test_a_response_calls_a_tool_and_goes_on_from_its_result(client):
    tool = {"type": "function", **WEATHER["function"]}
    asked = {"model": MODEL, "tools": [tool], "temperature": 0}
    first = client.responses.create(input="What is the weather in Paris?", **asked)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"temperature": 21, "condition": "sunny"}',
    }
    second = client.responses.create(input=[result], previous_response_id=first.id, **asked)
    assert "21" in second.output_text
