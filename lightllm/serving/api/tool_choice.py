"""Which tools the answer to a chat may call, and whether it must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightllm.base.errors import RequestError
from lightllm.serving.parsing.forms import Tool


@dataclass(frozen=True)
class ToolChoice:
    """is_required: nothing but calls. several: more than one call."""

    tools: Sequence[Tool] = ()
    is_required: bool = False
    several: bool = True


def tool_choice(choice: Any, tools: list[dict[str, Any]] | None, *, several: bool) -> ToolChoice:
    """What `tool_choice` says of checked tools. Raises RequestError."""
    offered = [_tool(tool["function"]) for tool in tools or []]
    if choice in (None, "auto"):
        return ToolChoice(offered, several=several)
    if choice == "none":
        return ToolChoice()
    if choice == "required":
        if not offered:
            raise RequestError("tool_choice=required needs tools", param="tool_choice")
        return ToolChoice(offered, is_required=True, several=several)
    name = _name(choice)
    named = [tool for tool in offered if tool.name == name]
    if not named:
        raise RequestError(
            f"tool_choice names {name[:100]!r}, which is not among the tools; use one of "
            f"{', '.join(tool.name for tool in offered) or 'those that you give'}",
            param="tool_choice",
        )
    return ToolChoice(named[:1], is_required=True, several=False)


def _tool(function: Mapping[str, Any]) -> Tool:
    return Tool(function["name"], function.get("parameters") or {}, is_strict=bool(function.get("strict")))


def _name(choice: Any) -> str:
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return function["name"]
    raise RequestError(
        f"tool_choice={str(choice)[:100]!r} is not allowed; use auto, none, required, or "
        '{"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )
