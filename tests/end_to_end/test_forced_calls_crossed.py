"""Calls that are forced, of a model that thinks first, crossed with all else that a request may ask for, on three api
processes and an engine that preempts: every call is valid, and each request gets what it gets alone."""

import asyncio
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai import AsyncOpenAI

from lightllm import demo
from tests.end_to_end.serving import Server, eventually

MODEL = "thinking-demo"
THINK_END = 4093  # the bundled model's </tool_response>, by another name here
# So small that the watermark policy, which does not look ahead, runs out and must preempt.
SMALL = ["--max_total_token_num", "700", "--max_req_total_len", "700", "--admission", "watermark", "--watermark", "1.0"]
PARAMETERS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Rome", "Oslo"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "get_time": {
        "type": "object",
        "properties": {"utc": {"type": "boolean"}},
        "required": ["utc"],
        "additionalProperties": False,
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in PARAMETERS.items()
]


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


SLOW_FORMS = ("glm45", "llama3", "mistral", "deepseek_v31", "internlm2")
CHOICES: list[Any] = [
    "required",
    named("get_weather"),
    {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("get_time")]}},
    "auto",
]


@dataclass
class Answer:
    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: Any = None
    tokens: list[str] = field(default_factory=list)

    def add(self, choice: Any, message: Any) -> None:
        """A whole answer, or the next piece of one."""
        self.reasoning += (message.model_extra or {}).get("reasoning_content", "")
        self.content += message.content or ""
        for number, call in enumerate(message.tool_calls or []):
            if getattr(call, "index", number) == len(self.calls):
                self.calls.append((call.function.name, ""))
            name, arguments = self.calls[-1]
            self.calls[-1] = name, arguments + (call.function.arguments or "")
        self.tokens += [one.token for one in choice.logprobs.content] if choice.logprobs else []
        self.finish_reason = choice.finish_reason or self.finish_reason
        self.stop_reason = (choice.model_extra or {}).get("stop_reason") or self.stop_reason


def request(i: int) -> dict[str, Any]:
    options = {"n": 1 + i % 2, "stream": bool(i // 2 % 2), "parallel_tool_calls": i % 3 == 0, "logprobs": i % 5 < 3}
    if i % 4 == 1:
        options["stop"] = ["Oslo"]
    if i % 8 == 7:
        options["response_format"] = {"type": "json_object"}
    return options | {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"What is {i} + {i * i}?"}],
        "tools": TOOLS,
        "tool_choice": CHOICES[i // 4 % len(CHOICES)],
        "temperature": 1.0,
        "seed": i,
        "max_tokens": 250,
        "logit_bias": {str(THINK_END): 14},
    }


REQUESTS = [request(i) for i in range(16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The bundled model as one that thinks before it answers."""
    folder = tmp_path_factory.mktemp("model") / MODEL
    shutil.copytree(demo.MODEL_DIR, folder)
    tokenizer, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace("tool_response>", "think>"))
    settings = json.loads(config.read_text())
    template = settings["chat_template"].replace("tool_response>", "think>").rstrip()
    settings["chat_template"] = template.removesuffix("{%- endif -%}") + "{{- '<think>' -}}{%- endif -%}"
    config.write_text(json.dumps(settings))
    return folder


async def ask(client: AsyncOpenAI, options: dict[str, Any]) -> list[Answer]:
    """The answers by choice."""
    answers = [Answer() for _ in range(options["n"])]
    if not options["stream"]:
        whole = await client.chat.completions.create(**options)
        pieces, usage = [(choice, choice.message) for choice in whole.choices], whole.usage
    else:
        pieces, usage = [], None
        async for chunk in await client.chat.completions.create(**options, stream_options={"include_usage": True}):
            pieces += [(choice, choice.delta) for choice in chunk.choices]
            usage = chunk.usage
    for choice, message in pieces:
        answers[choice.index].add(choice, message)
    assert usage.completion_tokens_details.reasoning_tokens <= usage.completion_tokens
    if options["logprobs"]:
        assert usage.completion_tokens == sum(len(answer.tokens) for answer in answers)
    return answers


def check(options: dict[str, Any], answer: Answer) -> None:
    """Raises AssertionError or ValidationError for what was not asked for."""
    choice, is_cut = options["tool_choice"], answer.stop_reason == "Oslo" or answer.finish_reason == "length"
    for name, arguments in answer.calls[: -1 if is_cut else None]:
        jsonschema.validate(json.loads(arguments), PARAMETERS[name])
    assert len(answer.calls) <= 1 or (options["parallel_tool_calls"] and choice != CHOICES[1])
    names = {"get_weather"} if choice == CHOICES[1] else {"get_time"} if choice == CHOICES[2] else set(PARAMETERS)
    assert names >= {name for name, _ in answer.calls}
    if choice != "auto" and not is_cut:
        assert answer.calls
        assert not answer.content
        assert answer.finish_reason == "tool_calls"


def client_of(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)


@pytest.mark.parametrize("form", ["hermes", *(pytest.param(form, marks=pytest.mark.slow) for form in SLOW_FORMS)])
def test_forced_calls_are_right_whatever_else_is_asked_for_and_happens(model, form):
    async def one_by_one(server: Server) -> list[list[Answer]]:
        async with client_of(server) as client:
            return [await ask(client, options | {"stream": not options["stream"]}) for options in REQUESTS]

    async def at_once(server: Server) -> list[list[Answer]]:
        async with client_of(server) as client:
            return await asyncio.gather(*(ask(client, options) for options in REQUESTS))

    flags = ["--httpserver_workers", "3", "--chunked_prefill_size", "16", "--tool_call_parser", form]
    with Server(*flags, *SMALL, model=str(model)) as server:
        alone = asyncio.run(one_by_one(server))
        before = server.metric("preemptions")
        together = asyncio.run(at_once(server))
        assert server.metric("preemptions") > before
        assert eventually(lambda: server.metric("batch_current_size") == 0)
    assert together == alone
    for options, answers in zip(REQUESTS, together, strict=True):
        for answer in answers:
            check(options, answer)
    assert all(any(getattr(answer, name) for each in together for answer in each) for name in ("reasoning", "calls"))
