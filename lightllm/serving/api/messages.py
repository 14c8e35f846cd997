"""Chat messages as clients send them, made into what chat templates expect. Raises RequestError for all others."""

from typing import Annotated, Any

import msgspec

from lightllm.base.errors import RequestError
from lightllm.serving.api import old_functions

Message = dict[str, Any]

# Where a prefix ends that is to be found again: all of them are, as long as there is room.
_CACHE_MARKS = ("prompt_cache_breakpoint", "cache_control")
_MARKS = (None, {"mode": "explicit"}, {"type": "ephemeral"})
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PARTS = [
    {
        "type": "object",
        "properties": {"type": {"const": kind}, kind: {"type": "string"}} | dict.fromkeys(_CACHE_MARKS, {}),
        "required": ["type", kind],
        "additionalProperties": False,
    }
    for kind in ("text", "refusal")
]
_CALL = {
    "type": "object",
    "properties": {
        "id": {"description": "As the model's call had it"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"description": "JSON, or a text of it"}},
            "required": ["name"],
        },
    },
    "required": ["function"],
}
_OPTIONAL = {"type": "null"}
# What is checked here, for the OpenAPI document. Other fields go to the template as they are.
DescribedMessage = Annotated[
    Message,
    msgspec.Meta(
        extra_json_schema={
            "properties": {
                "role": {"enum": list(_ROLES)},
                "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": _PARTS}}, _OPTIONAL]},
                "tool_calls": {"anyOf": [{"type": "array", "items": _CALL}, _OPTIONAL]},
            },
            "required": ["role"],
        }
    ),
]
DescribedTool = Annotated[
    dict[str, Any],
    msgspec.Meta(
        extra_json_schema={
            "properties": {
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "description": {"description": "What it is for, in words"},
                        "parameters": {
                            "anyOf": [{"type": "object"}, _OPTIONAL],
                            "description": "JSON schema of its arguments",
                        },
                        "strict": {
                            "anyOf": [{"type": "boolean"}, _OPTIONAL],
                            "description": "Whether arguments are held to it",
                        },
                    },
                    "required": ["name"],
                },
            },
            "required": ["type", "function"],
        }
    ),
]


def prepared(messages: list[Message]) -> list[Message]:
    """Content as one text, arguments of tool calls as objects; everything else as it is, for the template to use."""
    if not messages:
        raise RequestError("messages is empty; give at least one message", param="messages")
    return [_prepared(old_functions.modern(message), f"messages[{i}]") for i, message in enumerate(messages)]


def prepared_tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Checked tools; None if there are none."""
    for i, tool in enumerate(tools or []):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise RequestError(
                f'tools[{i}] must be {{"type": "function", "function": {{"name": ...}}}}', param=f"tools[{i}]"
            )
        if not isinstance(function.get("parameters"), dict | None):
            raise RequestError(f"tools[{i}].function.parameters must be a JSON schema", param=f"tools[{i}]")
        if not isinstance(function.get("strict"), bool | None):
            raise RequestError(f"tools[{i}].function.strict must be true or false", param=f"tools[{i}]")
    return tools or None


def parameters_by_name(tools: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each checked tool's parameters."""
    functions = [tool["function"] for tool in tools]
    return {function["name"]: function.get("parameters") or {} for function in functions}


def num_characters(messages: list[Message]) -> int:
    """Length of all texts, roughly."""
    return sum(len(message["content"] or "") for message in messages)


def _prepared(message: Message, place: str) -> Message:
    role = message.get("role")
    if role not in _ROLES:
        raise RequestError(f"{place}.role={str(role)[:100]!r}; use {', '.join(_ROLES)}", param=place)
    # Clients send back their own objects, whose empty fields templates would take for something.
    kept = {name: value for name, value in message.items() if value is not None and name != "tool_calls"}
    if "reasoning" in kept:  # the name that other servers give it; templates know only this one
        kept.setdefault("reasoning_content", kept["reasoning"])
    if "audio" in kept:
        raise RequestError(f"{place}.audio is not supported; send what was said as content", param=place)
    refusal = kept.pop("refusal", None)
    text = _text(kept.get("content", refusal), place)
    calls = message.get("tool_calls")
    if calls is not None and (prepared_calls := _prepared_calls(calls, place)):
        return {**kept, "content": text, "tool_calls": prepared_calls}
    return {**kept, "content": text or ""}


def _text(content: object, place: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{place}.content must be a text or a list of parts", param=place)
    return "\n".join(_part_text(part, f"{place}.content[{i}]") for i, part in enumerate(content))


def _part_text(part: object, place: str) -> str:
    if not isinstance(part, dict):
        raise RequestError(f'{place} must be {{"type": "text", "text": ...}}', param=place)
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise RequestError(f"{place} has type {str(kind)[:100]!r}; this model takes text only", param=place)
    if not isinstance(part.get(kind), str) or not part.keys() <= {"type", kind, *_CACHE_MARKS}:
        raise RequestError(f"{place} must have type and {kind}, and nothing else", param=place)
    for mark in _CACHE_MARKS:
        check_cache_mark(part.get(mark), f"{place}.{mark}")
    return part[kind]


def check_cache_mark(mark: object, place: str) -> None:
    """Raises RequestError for a mark that asks for more than to be found again while there is room."""
    if mark not in _MARKS:
        raise RequestError(
            f"{place}={str(mark)[:100]} must be {_MARKS[1]} or {_MARKS[2]}; how long it lasts is not for it to say",
            param=place,
        )


def _prepared_calls(calls: object, place: str) -> list[dict[str, Any]]:
    place = f"{place}.tool_calls"
    if not isinstance(calls, list):
        raise RequestError(f"{place} must be a list", param=place)
    return [_prepared_call(call, f"{place}[{i}]") for i, call in enumerate(calls)]


def _prepared_call(call: object, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError(f'{place} must hold {{"function": {{"name": ..., "arguments": ...}}}}', param=place)
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}}


def _arguments(arguments: object) -> object:
    """An object, as templates expect; what a model wrote wrongly stays the text that it is."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        parsed = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
