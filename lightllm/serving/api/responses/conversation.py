"""What a body of the Responses API asks for, said in the words of /v1/chat/completions."""

from typing import Any

import msgspec

from lightllm.base.errors import RequestError
from lightllm.serving.api import openai_chat
from lightllm.serving.api.openai_chat import ChatBody
from lightllm.serving.api.responses.body import LOGPROBS, FunctionTool, ResponsesBody, tools_of
from lightllm.serving.api.responses.items import Item, messages_of
from lightllm.serving.api.service import Service

_SAME_NAME = (
    "model", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "min_tokens",
    "ignore_eos", "chat_template_kwargs", "parallel_tool_calls", "user", "priority", "timeout_s",
)  # fmt: skip


async def chat_of(service: Service, body: ResponsesBody, items: list[Item]) -> ChatBody:
    """The chat that a body asks for, with all items of the conversation. Raises RequestError."""
    has_logprobs = LOGPROBS in (body.include or ())
    text = body.text
    chat = ChatBody(
        messages=messages_of(items, body.instructions),
        max_tokens=body.max_output_tokens,
        logprobs=has_logprobs or None,
        top_logprobs=body.top_logprobs if has_logprobs else None,
        tools=[_tool(tool) for tool in tools_of(body)] or None,
        tool_choice=_tool_choice(body.tool_choice),
        reasoning_effort=body.reasoning and body.reasoning.effort,
        response_format=text and text.format and _format(text.format),
        verbosity=text and text.verbosity,
        **{name: getattr(body, name) for name in _SAME_NAME},
    )
    return await _fitted(service, chat) if body.truncation == "auto" else chat


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict or None,
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(choice: str | dict[str, Any] | None) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.keys() == {"type", "mode", "tools"} and choice["type"] == "allowed_tools":
        tools = choice["tools"]
        named = [_named_tool(tool) for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": named}}
    return _named_tool(choice)


def _named_tool(tool: Any) -> dict[str, Any]:
    match tool:
        case {"type": "function", "name": str(name)} if len(tool) == 2:
            return {"type": "function", "function": {"name": name}}
    raise RequestError(
        'tool_choice must be auto, none, required, {"type": "function", "name": ...}, or {"type": "allowed_tools", '
        '"mode": "auto" or "required", "tools": [{"type": "function", "name": ...}, ...]}; this server has no other '
        "tools than functions",
        param="tool_choice",
    )


def _format(format: dict[str, Any]) -> dict[str, Any]:
    """Here a schema stands beside its name, there both stand one level deeper."""
    if format.get("type") != "json_schema":
        return format
    return {"type": "json_schema", "json_schema": {name: value for name, value in format.items() if name != "type"}}


async def _fitted(service: Service, chat: ChatBody) -> ChatBody:
    """The chat without as many of its oldest messages as it takes to fit. What the system says stays."""
    parsing = openai_chat.parsing_of(service, chat)
    room = min(service.max_model_len, service.status.pool_tokens) - (chat.max_tokens or 1)
    fixed = next((i for i, m in enumerate(chat.messages) if m["role"] not in ("system", "developer")), 0)

    async def fits(dropped: int) -> bool:
        return len((await openai_chat.prompt_of(service, _without(chat, fixed, dropped), parsing)).tokens) <= room

    if await fits(0):
        return chat
    low, high = 0, len(chat.messages) - fixed - 1  # low does not fit; high is the last message alone
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if await fits(middle) else (middle, high)
    return _without(chat, fixed, high)


def _without(chat: ChatBody, fixed: int, dropped: int) -> ChatBody:
    """The chat without the first messages after the fixed ones, nor results whose calls are gone."""
    rest = chat.messages[fixed + dropped :]
    while dropped and len(rest) > 1 and rest[0]["role"] == "tool":
        rest = rest[1:]
    return msgspec.structs.replace(chat, messages=[*chat.messages[:fixed], *rest])
