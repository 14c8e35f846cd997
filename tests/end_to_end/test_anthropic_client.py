"""Anthropic's official client against a real server on the bundled model, warnings being errors."""

import asyncio
from typing import Literal

import pytest
from anthropic import Anthropic, AsyncAnthropic, BadRequestError, NotFoundError, beta_tool
from pydantic import BaseModel

from tests.end_to_end.workload import MODEL

WEATHER = {
    "name": "get_weather",
    "description": "Get the current weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture(scope="module")
def client(server):
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def asking(question: str, **options) -> dict:
    greedy = {"extra_body": {"temperature": 0}}  # which the client no longer has an argument for
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": question}]} | greedy | options


def test_a_message_answers_a_sum(client):
    answer = client.messages.create(**asking("What is 25 + 17?"))
    assert (answer.type, answer.role, answer.model, answer.stop_reason) == ("message", "assistant", MODEL, "end_turn")
    assert "42" in answer.content[0].text
    assert answer.usage.output_tokens > 0
    assert answer._request_id


def test_counted_tokens_are_those_of_the_message(client):
    asked = asking("What is 25 + 17?")
    usage = client.messages.create(**asked).usage
    counted = client.messages.count_tokens(model=MODEL, messages=asked["messages"]).input_tokens
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_streamed_message_equals_the_whole(client):
    asked = asking("Count from 1 to 12.")
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    with client.messages.create(**asked, stream=True) as events:
        kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_is_used_and_its_result_understood(client, is_streamed):
    asked = asking("What is the weather in Paris?", tools=[WEATHER])
    if is_streamed:
        with client.messages.stream(**asked) as stream:
            answer = stream.get_final_message()
    else:
        answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    [use] = [block for block in answer.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": '{"temperature": 21, "condition": "sunny"}'}
    asked["messages"] += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    assert "21" in client.messages.create(**asked).content[0].text


@beta_tool
def get_weather(city: str) -> str:
    """Get the current weather of a city

    Args:
        city: which
    """
    return f'{{"temperature": {len(city)}, "condition": "sunny"}}'


def test_the_clients_own_loop_runs_tools(client):
    asked = asking("What is the weather in Paris?")
    call, answer = client.beta.messages.tool_runner(**asked, tools=[get_weather], thread=False)
    assert (call.content[0].name, call.content[0].input) == ("get_weather", {"city": "Paris"})
    assert str(len("Paris")) in answer.content[0].text
    with pytest.raises(BadRequestError, match="thread"):  # it would live on the server
        next(iter(client.beta.messages.tool_runner(**asked, tools=[get_weather])))


class Weather(BaseModel):
    condition: Literal["sunny", "cloudy", "rainy"]
    wind: Literal["none", "some", "much"]


def test_a_message_is_parsed_as_an_object_of_a_type(client):
    answer = client.messages.parse(**asking("What is the weather?", output_format=Weather))
    assert isinstance(answer.parsed_output, Weather)


def test_what_ends_a_message_is_said(client):
    stopped = client.messages.create(**asking("Count from 1 to 12.", stop_sequences=["7"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "7")
    assert client.messages.create(**asking("Count from 1 to 12.", max_tokens=3)).stop_reason == "max_tokens"


async def test_the_asynchronous_client_gets_the_same_answers(server, client):
    asked = asking("What is 25 + 17?")
    async with AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as asynchronous:
        answers = await asyncio.gather(*[asynchronous.messages.create(**asked) for _ in range(4)])
        async with asynchronous.messages.stream(**asked) as stream:
            streamed = await stream.get_final_text()
    assert {answer.content[0].text for answer in answers} == {streamed}


def test_errors_are_the_clients_own(client):
    with pytest.raises(BadRequestError, match="max_tokens"):
        client.messages.create(**asking("hello", max_tokens=5000))
    with pytest.raises(NotFoundError, match="no-such-model"):
        client.messages.create(**asking("hello") | {"model": "no-such-model"})


def test_the_model_is_listed_and_found(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
