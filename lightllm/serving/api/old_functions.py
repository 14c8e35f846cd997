"""`functions` and `function_call`, OpenAI's names from before there were tools, read as tools and tool_choice.

Such a request gets its answer in the old form, too: one call, in `function_call`.
"""

from typing import Any

from lightllm.base.errors import RequestError

Message = dict[str, Any]
_CALL_ID = "function0"  # the old form has none; nine characters, as some templates want them


def tools_of(functions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": function} for function in functions]


def choice_of(call: str | dict[str, Any] | None, *, has_functions: bool) -> str | dict[str, Any] | None:
    """The tool_choice that a function_call stands for. Raises RequestError."""
    if isinstance(call, dict):
        if not has_functions:
            raise RequestError("function_call needs functions", param="function_call")
        return {"type": "function", "function": call}
    if call not in (None, "none", "auto"):
        raise RequestError(
            f'function_call={call[:100]!r} is not allowed; use none, auto or {{"name": ...}}', param="function_call"
        )
    return call


def modern(message: Message) -> Message:
    """A message of an earlier turn with a call, or the answer to one, as it is written today."""
    if message.get("role") == "function":
        return {**message, "role": "tool", "tool_call_id": _CALL_ID}
    if (call := message.get("function_call")) is None:
        return message
    others = {name: value for name, value in message.items() if name != "function_call"}
    return {**others, "tool_calls": [{"id": _CALL_ID, "type": "function", "function": call}]}
