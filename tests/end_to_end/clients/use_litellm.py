"""litellm against the server at sys.argv[1], with the key sys.argv[2]."""

import asyncio
import json
import sys
from typing import Literal

import litellm
from pydantic import BaseModel

URL, KEY = sys.argv[1:]
COMMON = {"model": "openai/lightllm-demo", "api_base": f"{URL}/v1", "api_key": KEY, "temperature": 0}
SUM = [{"role": "user", "content": "What is 25 + 17?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]


def whole_and_streamed() -> None:
    whole = litellm.completion(messages=SUM, **COMMON)
    assert "42" in whole.choices[0].message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(litellm.completion(messages=SUM, stream=True, stream_options={"include_usage": True}, **COMMON))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=SUM)
    assert rebuilt.choices[0].message.content == whole.choices[0].message.content
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens


def tools() -> None:
    answer = litellm.completion(messages=PARIS, tools=[WEATHER], **COMMON)
    [call] = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "condition": "sunny"}'}
    answer = litellm.completion(messages=[*PARIS, answer.choices[0].message, result], tools=[WEATHER], **COMMON)
    assert "21" in answer.choices[0].message.content
    chunks = list(litellm.completion(messages=PARIS, tools=[WEATHER], stream=True, **COMMON))
    [call] = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


class Weather(BaseModel):
    condition: Literal["sunny", "cloudy", "rainy"]


def forced() -> None:
    answer = litellm.completion(
        messages=SUM, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, **COMMON
    )
    [call] = answer.choices[0].message.tool_calls
    assert "city" in json.loads(call.function.arguments)
    answer = litellm.completion(messages=PARIS, response_format=Weather, **COMMON)
    assert Weather.model_validate_json(answer.choices[0].message.content)


def responses() -> None:
    answer = litellm.responses(input="What is 25 + 17?", **COMMON)
    assert "42" in answer.output[0].content[0].text


def text_completion() -> None:
    common = COMMON | {"model": "text-completion-openai/lightllm-demo"}
    answer = litellm.text_completion(prompt="1 2 3 4 5", max_tokens=5, **common)
    assert answer.choices[0].text
    streamed = litellm.text_completion(prompt="1 2 3 4 5", max_tokens=5, stream=True, **common)
    assert "".join(chunk.choices[0].text or "" for chunk in streamed) == answer.choices[0].text


async def at_the_same_time() -> None:
    answers = await asyncio.gather(*[litellm.acompletion(messages=SUM, **COMMON) for _ in range(4)])
    assert all("42" in answer.choices[0].message.content for answer in answers)


def errors() -> None:
    assert refusal(litellm.AuthenticationError, api_key="wrong")
    assert "max_tokens" in refusal(litellm.BadRequestError, max_tokens=10**9)


def refusal(kind: type[Exception], **options: object) -> str:
    try:
        litellm.completion(messages=SUM, **(COMMON | options))
    except kind as error:
        return str(error)
    raise AssertionError(f"{options} was let through")


whole_and_streamed()
tools()
forced()
responses()
text_completion()
asyncio.run(at_the_same_time())
errors()
