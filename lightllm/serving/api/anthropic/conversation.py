"""What the Messages API asks for, said in the words of /v1/chat/completions."""

from typing import Any

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api.anthropic.body import (
    TOOL_NEUTRAL,
    AnthropicMessage,
    CountTokensBody,
    DocumentBlock,
    ImageBlock,
    MessagesBody,
    OutputConfig,
    SystemText,
    TextBlock,
    Thinking,
    ThinkingBlock,
    Tool,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from lightllm.serving.api.openai_chat import SWITCHES, ChatBody
from lightllm.serving.api.service import Service

_LEAST_BUDGET = 1024  # tokens, as Anthropic's documentation has it
_SAME_NAME = (
    "model", "stream", "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed",
    "priority", "timeout_s",
)  # fmt: skip
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_Parts = list[dict[str, str]]


def chat_of(service: Service, body: CountTokensBody) -> ChatBody:
    """The chat that a body asks for. Raises RequestError for what no chat can do."""
    values: dict[str, Any] = {}
    if isinstance(body, MessagesBody):
        values = {name: getattr(body, name) for name in _SAME_NAME}
        values |= {"stop": body.stop_sequences, "user": body.metadata and body.metadata.user_id}
        _check_budget(body.thinking, body.max_tokens)
    return ChatBody(
        messages=_messages(body),
        continue_final_message=bool(body.messages) and body.messages[-1].role == "assistant",
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or [])] or None,
        chat_template_kwargs=_thinking(service, body.thinking, has_tools=bool(body.tools)),
        **values,
        **_tool_choice(body.tool_choice),
        **_output(body.output_config),
    )


# Messages


def _messages(body: CountTokensBody) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.system:
        messages.append({"role": "system", "content": _content(body.system, "system")})
    for i, message in enumerate(body.messages):
        place = f"messages[{i}]"
        messages += _of_assistant(message, place) if message.role == "assistant" else _of_others(message, place)
    if messages and messages[-1].get("tool_calls"):
        raise RequestError(
            "the last message asks for tools; send a user's message with their results", param="messages"
        )
    return messages


def _of_others(message: AnthropicMessage, place: str) -> list[dict[str, Any]]:
    """A message of the user's or the system's for each run of texts, one of a tool's for each result, in order."""
    role = message.role
    if isinstance(message.content, str):
        return [{"role": role, "content": message.content}]
    messages: list[dict[str, Any]] = []
    for i, block in enumerate(message.content):
        at = f"{place}.content[{i}]"
        if isinstance(block, ToolResultBlock) and role == "user":
            messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block, at)})
        elif isinstance(block, ThinkingBlock | ToolUseBlock | ToolResultBlock):
            raise RequestError(f"{at} is of a type that no message of role {role} holds", param=at)
        elif messages and messages[-1]["role"] == role:
            messages[-1]["content"].append(_part(block, at))
        else:
            messages.append({"role": role, "content": [_part(block, at)]})
    return messages


def _of_assistant(message: AnthropicMessage, place: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": "assistant", "content": message.content}]
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for i, block in enumerate(message.content):
        at = f"{place}.content[{i}]"
        if isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ToolResultBlock):
            raise RequestError(f"{at} is of a type that no message of role assistant holds", param=at)
        else:
            texts.append(_part(block, at)["text"])
    said: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    optional = {"reasoning_content": "\n".join(thoughts), "tool_calls": calls}
    return [said | {name: value for name, value in optional.items() if value}]


def _content(content: str | list[SystemText], place: str) -> str | _Parts:
    if isinstance(content, str):
        return content
    return [_part(block, f"{place}[{i}]") for i, block in enumerate(content)]


def _result(block: ToolResultBlock, place: str) -> str | _Parts:
    """What a tool gave. That it failed is told in words, for which templates have no others."""
    content = block.content or ""
    parts = content if isinstance(content, str) else [_part(part, f"{place}.content") for part in content]
    if not block.is_error:
        return parts
    return f"Error: {parts}" if isinstance(parts, str) else [{"type": "text", "text": "Error:"}, *parts]


def _part(block: TextBlock | SystemText | ImageBlock | DocumentBlock, place: str) -> dict[str, str]:
    if isinstance(block, ImageBlock | DocumentBlock):
        kind = "image" if isinstance(block, ImageBlock) else "document"
        raise RequestError(f"{place} is of type {kind}; this model takes blocks of text only", param=place)
    if block.citations:
        raise RequestError(f"{place}.citations are not supported; leave them out", param=place)
    return {"type": "text", "text": block.text}


# Everything else


def _tool(tool: Tool, place: str) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        raise RequestError(
            f"{place}.type={tool.type!r} is a tool that this server does not have; use your own, of type custom",
            param=place,
        )
    if tool.input_schema is None:
        raise RequestError(f"{place}.input_schema is missing; give a JSON schema", param=place)
    bodies.refuse_unsupported(tool, TOOL_NEUTRAL)
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    function |= {"strict": True} if tool.strict else {}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    if (choice.type == "tool") != (choice.name is not None):
        raise RequestError("tool_choice.name goes with type tool, and with no other", param="tool_choice")
    named = {"type": "function", "function": {"name": choice.name}}
    several = None if choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use
    return {"tool_choice": _CHOICES.get(choice.type, named), "parallel_tool_calls": several}


def _output(config: OutputConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    values: dict[str, Any] = {"reasoning_effort": config.effort}
    if config.format is not None:
        schema = {"name": "output", "schema": config.format.schema, "strict": True}
        values["response_format"] = {"type": "json_schema", "json_schema": schema}
    return values


def _check_budget(thinking: Thinking | None, max_tokens: int) -> None:
    if thinking is None or (thinking.type != "enabled" and thinking.budget_tokens is None):
        return
    budget = thinking.budget_tokens
    if thinking.type != "enabled" or budget is None or not _LEAST_BUDGET <= budget < max_tokens:
        raise RequestError(
            f"thinking.budget_tokens={budget} is not allowed; with type enabled use {_LEAST_BUDGET} or more, less than "
            f"max_tokens={max_tokens}",
            param="thinking",
        )


def _thinking(service: Service, thinking: Thinking | None, *, has_tools: bool) -> dict[str, bool] | None:
    """The template's variable that makes the model think, or not; None where nothing needs to be said."""
    if thinking is None:
        return None
    wanted, template = thinking.type != "disabled", service.need_template()
    for name in SWITCHES:
        if template.knows(name, has_tools=has_tools):
            return {name: wanted}
    if wanted == (service.formats.reasoning is not None):
        return None
    does = "does not think" if wanted else "always thinks"
    raise RequestError(f"thinking.type={thinking.type}: this model {does}; leave thinking out", param="thinking")
