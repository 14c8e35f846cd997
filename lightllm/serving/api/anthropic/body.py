"""Bodies of the Messages API. Unknown fields and blocks are refused by name, as everywhere."""

from typing import Any, Literal

import msgspec

from lightllm.serving.api.body import Int


class CacheControl(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Accepted without effect: prefixes are cached without being asked, as long as there is room."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class _Block(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True, tag_field="type"):
    """Part of a message."""

    cache_control: CacheControl | None = None


class TextBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="text"):
    text: str
    citations: Any = None


class SystemText(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A TextBlock where there can be no other."""

    type: Literal["text"]
    text: str
    citations: Any = None
    cache_control: CacheControl | None = None


class ImageBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="image"):
    """Refused: models that are served take text."""

    source: Any


class DocumentBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="document"):
    """Refused, for its citations' sake: send its text."""

    source: Any
    title: Any = None
    context: Any = None
    citations: Any = None


class ThinkingBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="thinking"):
    """What the model thought in an earlier answer. The signature is not looked at."""

    thinking: str
    signature: str | None = None


class ToolUseBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None


class ToolResultBlock(_Block, kw_only=True, forbid_unknown_fields=True, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool | None = None


Block = TextBlock | ImageBlock | DocumentBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class AnthropicMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Of the system's: text only."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A tool that the client runs."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    # Refused unless they say nothing, see TOOL_NEUTRAL
    input_examples: Any = None
    defer_loading: Any = None
    eager_input_streaming: Any = None
    allowed_callers: Any = None


TOOL_NEUTRAL: dict[str, tuple[object, ...]] = {
    "input_examples": ([],),
    "defer_loading": (False,),
    "eager_input_streaming": (True,),
    "allowed_callers": (["direct"],),
}


class ToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`name` with type tool only."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Whether the model thinks first. The budget is checked and otherwise up to the model; max_tokens binds both."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Int | None = None
    display: Literal["summarized"] | None = None


class OutputFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`user_id` tells users apart where the server is shared fairly among them."""

    user_id: str | None = None


class CountTokensBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A conversation of which the tokens are counted."""

    model: str
    messages: list[AnthropicMessage]
    system: str | list[SystemText] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    # Refused unless they say nothing, see NEUTRAL
    context_management: Any = None
    mcp_servers: Any = None
    speed: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesBody(CountTokensBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A conversation to continue. Where the last message is the assistant's, its text is."""

    max_tokens: Int
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    # Extensions, named as in /v1/chat/completions
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: Int | None = None
    priority: Int | None = None
    timeout_s: float | None = None
    # Accepted without effect: prices
    service_tier: Literal["auto", "standard_only"] | None = None
    # Refused unless they say nothing, see NEUTRAL
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None


COUNT_NEUTRAL: dict[str, tuple[object, ...]] = {
    "context_management": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
}
NEUTRAL = COUNT_NEUTRAL | {"container": (), "diagnostics": (), "inference_geo": ()}
