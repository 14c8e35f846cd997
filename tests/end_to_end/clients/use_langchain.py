"""langchain-openai against the server at sys.argv[1], with the key sys.argv[2]."""

import asyncio
import sys
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY = sys.argv[1:]
COMMON = {"model": "lightllm-demo", "base_url": f"{URL}/v1", "api_key": KEY, "temperature": 0, "max_retries": 0}


@tool
def get_weather(city: str) -> str:
    """Get the current weather of a city"""
    return '{"temperature": 21, "condition": "sunny"}'


def whole_and_streamed() -> None:
    chat = ChatOpenAI(stream_usage=True, **COMMON)
    whole = chat.invoke("What is 25 + 17?")
    assert "42" in whole.content
    chunks = list(chat.stream("What is 25 + 17?"))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0
    assert ["42" in answer.content for answer in chat.batch(["What is 25 + 17?", "What is 40 + 2?"])] == [True, True]


def tools() -> None:
    chat = ChatOpenAI(**COMMON).bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    answer = chat.invoke([question])
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert "21" in chat.invoke([question, answer, result]).content
    streamed = None
    for chunk in chat.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed.tool_calls[0]["args"] == {"city": "Paris"}


def forced_tools() -> None:
    forced = {"tool_choice": "any", "parallel_tool_calls": False, "strict": True}
    for kind in ({}, {"use_responses_api": True}):
        chat = ChatOpenAI(**COMMON, **kind).bind_tools([get_weather], **forced)
        [call] = chat.invoke("What is 25 + 17?").tool_calls
        assert (call["name"], list(call["args"])) == ("get_weather", ["city"])


class Weather(BaseModel):
    """The weather of a city."""

    condition: Literal["sunny", "cloudy", "rainy"]
    wind: Literal["none", "some", "much"]


def answers_of_a_type() -> None:
    for method in ("json_schema", "function_calling"):
        chat = ChatOpenAI(**COMMON).with_structured_output(Weather, method=method)
        assert isinstance(chat.invoke("What is the weather in Paris?"), Weather)
    chat = ChatOpenAI(use_responses_api=True, **COMMON).with_structured_output(Weather)
    assert isinstance(chat.invoke("What is the weather in Paris?"), Weather)


def completions() -> None:
    text = OpenAI(max_tokens=5, **COMMON)
    assert text.invoke("1 2 3 4 5") == "".join(text.stream("1 2 3 4 5"))


async def at_the_same_time() -> None:
    chat = ChatOpenAI(**COMMON)
    answers = await asyncio.gather(*[chat.ainvoke("What is 25 + 17?") for _ in range(4)])
    assert all("42" in answer.content for answer in answers)
    chunks = [chunk.content async for chunk in chat.astream("What is 25 + 17?")]
    assert "42" in "".join(chunks)


whole_and_streamed()
tools()
forced_tools()
answers_of_a_type()
completions()
asyncio.run(at_the_same_time())
