"""Which tools the answer to a chat may call, and whether it must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from lightllm.base.errors import RequestError
from lightllm.serving.parsing.forms import Tool

_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}
_ALLOWED = {
    "type": "object",
    "properties": {
        "type": {"const": "allowed_tools"},
        "allowed_tools": {
            "type": "object",
            "properties": {
                "mode": {"enum": ["auto", "required"]},
                "tools": {"type": "array", "items": _NAMED, "minItems": 1},
            },
            "required": ["mode", "tools"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "allowed_tools"],
    "additionalProperties": False,
}
# What is checked here, for the OpenAPI document.
DescribedChoice = Annotated[
    Any,
    msgspec.Meta(extra_json_schema={"anyOf": [{"enum": ["none", "auto", "required", None]}, _NAMED, _ALLOWED]}),
]


@dataclass(frozen=True)
class ToolChoice:
    """is_required: nothing but calls. several: more than one call. is_exclusive: the model is told of no other tools,
    and what calls one is text."""

    tools: Sequence[Tool] = ()
    is_required: bool = False
    several: bool = True
    is_exclusive: bool = False

    def shown(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of checked tools that the model is told of."""
        names = {tool.name for tool in self.tools}
        return [tool for tool in tools if tool["function"]["name"] in names] if self.is_exclusive else tools


def tool_choice(choice: Any, tools: list[dict[str, Any]] | None, *, several: bool) -> ToolChoice:
    """What `tool_choice` says of checked tools. Raises RequestError."""
    offered = [_tool(tool["function"]) for tool in tools or []]
    if choice in (None, "auto"):
        return ToolChoice(offered, several=several)
    if choice == "none":
        return ToolChoice(is_exclusive=True)
    if choice == "required":
        if not offered:
            raise RequestError("tool_choice=required needs tools", param="tool_choice")
        return ToolChoice(offered, is_required=True, several=several)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice, offered, several=several)
    return ToolChoice([_named(_name(choice), offered)], is_required=True, several=False)


def _tool(function: Mapping[str, Any]) -> Tool:
    return Tool(function["name"], function.get("parameters") or {}, is_strict=bool(function.get("strict")))


def _named(name: str, offered: list[Tool]) -> Tool:
    """The first of them with this name."""
    for tool in offered:
        if tool.name == name:
            return tool
    raise RequestError(
        f"tool_choice names {name[:100]!r}, which is not among the tools; use one of "
        f"{', '.join(tool.name for tool in offered) or 'those that you give'}",
        param="tool_choice",
    )


def _allowed(choice: dict[str, Any], offered: list[Tool], *, several: bool) -> ToolChoice:
    """Some of the tools and no others."""
    allowed = choice.get("allowed_tools")
    match allowed:
        case {"mode": "auto" | "required" as mode, "tools": [_, *_] as tools} if len(choice) == len(allowed) == 2:
            names = dict.fromkeys(map(_name, tools))
            return ToolChoice(
                [_named(name, offered) for name in names],
                is_required=mode == "required",
                several=several,
                is_exclusive=True,
            )
    raise RequestError(
        'tool_choice of type allowed_tools must be {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or '
        '"required", "tools": [{"type": "function", "function": {"name": ...}}, ...]}}, with one tool at least',
        param="tool_choice",
    )


def _name(choice: Any) -> str:
    match choice:
        case {"function": {"name": str(name)}} if choice == {"type": "function", "function": {"name": name}}:
            return name
    raise RequestError(
        f"tool_choice={str(choice)[:100]!r} is not allowed; use auto, none, required, "
        '{"type": "function", "function": {"name": ...}}, or several of these in {"type": "allowed_tools", ...}',
        param="tool_choice",
    )
