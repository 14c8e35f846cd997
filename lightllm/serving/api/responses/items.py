"""Items of a conversation, as clients send them and as they are stored, and the chat messages that they amount to."""

import base64
import binascii
import secrets
from typing import Any, Literal

import msgspec

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api.messages import check_cache_mark

Item = dict[str, Any]
_Status = Literal["in_progress", "completed", "incomplete"]
# Types of parts, and what each may hold besides. What this server has written comes back with all that it had.
_PARTS: dict[str, tuple[str, ...]] = {
    "input_text": ("text", "prompt_cache_breakpoint"),
    "output_text": ("text", "annotations", "logprobs"),
    "text": ("text",),
    "summary_text": ("text",),
    "reasoning_text": ("text",),
    "refusal": ("refusal",),
}
_DIRECT = {"type": "direct"}


class _Known(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """An item of a type that is known: what it may hold."""

    type: str | None = None
    id: str | None = None
    status: _Status | None = None


class _Message(_Known, kw_only=True, forbid_unknown_fields=True, frozen=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    phase: Literal["commentary", "final_answer"] | None = None  # a word of OpenAI's models; others know none for it


class _Call(_Known, kw_only=True, forbid_unknown_fields=True, frozen=True):
    call_id: str
    name: str
    arguments: str
    caller: Any = None
    namespace: None = None


class _CallOutput(_Known, kw_only=True, forbid_unknown_fields=True, frozen=True):
    call_id: str
    output: str | list[dict[str, Any]]
    caller: Any = None


class _Reasoning(_Known, kw_only=True, forbid_unknown_fields=True, frozen=True):
    summary: list[dict[str, Any]] = []
    content: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None


_KINDS: dict[str, tuple[type[_Known], str]] = {  # what it may hold, and how its ids begin
    "message": (_Message, "msg"),
    "function_call": (_Call, "fc"),
    "function_call_output": (_CallOutput, "fco"),
    "reasoning": (_Reasoning, "rs"),
}


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def checked(given: str | list[Item]) -> list[Item]:
    """The input as complete items, each with type and id. Raises RequestError."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_checked(item, f"input[{i}]") for i, item in enumerate(given)]


def _checked(item: Item, place: str) -> Item:
    kind = item.get("type") or "message"
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RequestError(f"{place}.type={str(kind)[:100]!r} is not supported; use {', '.join(_KINDS)}", param=place)
    form, prefix = _KINDS[kind]
    try:
        msgspec.convert(item, form)
    except msgspec.ValidationError as error:
        raise RequestError(f"{place} is not as it must be: {error}", param=place) from None
    kept = {name: value for name, value in item.items() if value is not None}
    whole = {"id": new_id(prefix), "status": "completed"} | kept | {"type": kind}
    if kind == "message" and isinstance(whole["content"], str):
        part = "output_text" if whole["role"] == "assistant" else "input_text"
        extra: Item = {"annotations": []} if part == "output_text" else {}
        whole["content"] = [{"type": part, "text": whole["content"], **extra}]
    if whole.get("caller", _DIRECT) != _DIRECT:
        raise RequestError(f"{place}.caller is not supported: here models call tools themselves", param=place)
    _texts_of(whole, place)
    return whole


def messages_of(items: list[Item], instructions: str | None) -> list[dict[str, Any]]:
    """The chat that checked items are. What the assistant thought, said and called in a row is one message."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    said: dict[str, Any] | None = None  # the assistant's message that can be added to
    for item in items:
        text = "".join(_texts_of(item, "input"))
        match item["type"], item.get("role"):
            case ("reasoning", _) | ("message", "assistant"):
                name = "reasoning_content" if item["type"] == "reasoning" else "content"
                if said is None or name in said or "tool_calls" in said:
                    said = {"role": "assistant"}
                    messages.append(said)
                said[name] = text
            case ("function_call", _):
                if said is None:
                    said = {"role": "assistant"}
                    messages.append(said)
                function = {"name": item["name"], "arguments": item["arguments"]}
                said.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
            case ("function_call_output", _):
                said = None
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": text})
            case (_, role):
                said = None
                messages.append({"role": role, "content": text})
    return messages


def _texts_of(item: Item, place: str) -> list[str]:
    match item["type"]:
        case "message":
            return _texts(item["content"], place)
        case "function_call_output":
            output = item["output"]
            return [output] if isinstance(output, str) else _texts(output, place)
        case "reasoning":
            if item.get("content") is None and item.get("encrypted_content"):
                return [_decoded(item["encrypted_content"], place)]
            return _texts(item.get("content") or item.get("summary") or [], place)
        case _:
            return []


def _texts(parts: list[dict[str, Any]], place: str) -> list[str]:
    texts = []
    for part in parts:
        kind = part.get("type")
        names = _PARTS.get(kind, ()) if isinstance(kind, str) else ()
        if not names or not isinstance(part.get(names[0]), str):
            raise RequestError(
                f"{place} has a part of type {str(kind)[:100]!r}; this model takes parts of text only", param=place
            )
        bodies.refuse_others(part, ("type", *names), place)
        check_cache_mark(part.get("prompt_cache_breakpoint"), f"{place}.prompt_cache_breakpoint")
        texts.append(part[names[0]])
    return texts


# Reasoning that travels with a client who stores it in our place. It is no secret, so it is encoded and not encrypted.


def encoded(reasoning: str) -> str:
    return base64.b64encode(reasoning.encode()).decode()


def _decoded(content: str, place: str) -> str:
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise RequestError(f"{place}.encrypted_content is not this server's; leave the item out", param=place) from None
