"""Calls that a tool_choice requires, from the bundled model, which was never taught any: each is valid all the same."""

import json

import anthropic
import jsonschema
import openai
import pytest

from tests.end_to_end.serving import Server

PARAMETERS = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "get_time": {"type": "object", "properties": {"utc": {"type": "boolean"}}, "additionalProperties": False},
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in PARAMETERS.items()
]
HELLO = [{"role": "user", "content": "What is 2 + 3?"}]
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(scope="module", params=["hermes", "qwen3_coder", "pythonic"])
def server(request):
    flags = ("--tool_call_parser", request.param, "--max_total_token_num", "8000")
    with Server("--device", "cpu", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


def check(name: str, arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), PARAMETERS[name])


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_every_sample_calls_and_calls_right(client, choice):
    common = {"model": client.models.list().data[0].id, "messages": HELLO, "tools": TOOLS, "tool_choice": choice}
    answer = client.chat.completions.create(
        **common, n=4, temperature=1.0, seed=1, max_tokens=300, parallel_tool_calls=False
    )
    assert len(answer.choices) == 4
    for sample in answer.choices:
        assert sample.finish_reason == "tool_calls"
        [call] = sample.message.tool_calls
        check(call.function.name, call.function.arguments)
        assert choice == "required" or call.function.name == "get_weather"


def test_a_streamed_call_is_the_same(client):
    common = {"model": client.models.list().data[0].id, "messages": HELLO, "tools": TOOLS, "tool_choice": "required"}
    common |= {"temperature": 1.0, "seed": 5, "max_tokens": 300, "parallel_tool_calls": False}
    [whole] = client.chat.completions.create(**common).choices[0].message.tool_calls
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**common, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, arguments) == (whole.function.name, whole.function.arguments)


def test_other_apis_require_calls_too(client, server):
    model = client.models.list().data[0].id
    tools = [{"type": "function", "name": name, "parameters": schema} for name, schema in PARAMETERS.items()]
    answer = client.responses.create(
        model=model, input="hello", tools=tools, tool_choice={"type": "function", "name": "get_time"}, temperature=1.0
    )
    [call] = [item for item in answer.output if item.type == "function_call"]
    check("get_time", call.arguments)
    with anthropic.Anthropic(base_url=server.url, api_key="none") as other:
        message = other.messages.create(
            model=model,
            max_tokens=300,
            messages=HELLO,
            tools=[{"name": name, "input_schema": schema} for name, schema in PARAMETERS.items()],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    assert message.stop_reason == "tool_use"
    for block in message.content:
        assert block.type == "tool_use"
        check(block.name, json.dumps(block.input))
