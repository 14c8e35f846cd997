"""The body of POST /v1/responses. Unknown fields are refused by name, as everywhere."""

from typing import Annotated, Any, Literal

import msgspec

from lightllm.base.errors import RequestError
from lightllm.serving.api import body as bodies
from lightllm.serving.api.body import Int, Metadata

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"
# What these include belongs to items that no answer of this server has.
_NEVER_THERE = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip


class TextConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`summary` is refused: reasoning comes as it is."""

    effort: str | None = None
    summary: Any = None
    generate_summary: Any = None


class ResponseStreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    include_obfuscation: bool | None = None


class FunctionTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A tool that the client runs. Without `strict` arguments are not held to their schema."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Refused unless they say nothing, see TOOL_NEUTRAL
    allowed_callers: Any = None
    defer_loading: Any = None
    output_schema: Any = None


TOOL_NEUTRAL: dict[str, tuple[object, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "output_schema": (),
}
_DescribedTool = Annotated[
    dict[str, Any],
    msgspec.Meta(extra_json_schema=msgspec.json.schema_components([FunctionTool])[1]["FunctionTool"]),
]


class _ConversationBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What makes up the prompt, besides the input; after the items of `previous_response_id`, if given."""

    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    reasoning: ReasoningConfig | None = None
    text: TextConfig | None = None
    tools: list[_DescribedTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    # Refused unless it says nothing, see NEUTRAL
    conversation: Any = None


PROMPT_FIELDS = tuple(name for name in _ConversationBody.__struct_fields__ if name != "conversation")


class InputTokensBody(_ConversationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """As for a response. `personality` is refused: models that are served have none to choose from."""

    input: str | list[dict[str, Any]] | None = None
    personality: Any = None


class ResponsesBody(_ConversationBody, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A text, or items of a conversation, to answer; after those of `previous_response_id`, if given."""

    input: str | list[dict[str, Any]]
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Int | None = None
    include: list[str] | None = None
    metadata: Metadata | None = None
    user: str | None = None
    # Extensions, named as in /v1/chat/completions
    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: Int | None = None
    min_tokens: Int | None = None
    ignore_eos: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    priority: Int | None = None
    timeout_s: float | None = None
    # Accepted without effect: they concern tools that OpenAI runs, its accounts, caches and prices
    max_tool_calls: Int | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    # Refused unless they say nothing, see NEUTRAL
    prompt_cache_retention: Any = None
    prompt_cache_options: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    access_programs: Any = None
    background_options: Any = None
    image: Any = None


NEUTRAL: dict[str, tuple[object, ...]] = {
    "conversation": (),
    "prompt_cache_retention": bodies.NEUTRAL["prompt_cache_retention"],
    "prompt_cache_options": bodies.NEUTRAL["prompt_cache_options"],
    "prompt": (),
    "context_management": (),
    "moderation": (),
    "access_programs": (),
    "background_options": (),
    "image": (),
}
INPUT_TOKENS_NEUTRAL: dict[str, tuple[object, ...]] = {"conversation": (), "personality": ()}


def tools_of(body: ResponsesBody) -> list[FunctionTool]:
    """Its tools. Raises RequestError for those that are not the client's own."""
    tools = []
    for i, given in enumerate(body.tools or []):
        if (kind := given.get("type")) != "function":
            raise RequestError(
                f"tools[{i}].type={str(kind)[:100]!r} is a tool that this server does not have; use your own: type "
                "function, with a name",
                param=f"tools[{i}]",
            )
        bodies.refuse_others(given, FunctionTool.__struct_fields__, f"tools[{i}]")
        try:
            tool = msgspec.convert(given, FunctionTool)
        except msgspec.ValidationError as error:
            raise RequestError(f"tools[{i}] is not as it must be: {error}", param=f"tools[{i}]") from None
        bodies.refuse_unsupported(tool, TOOL_NEUTRAL)
        tools.append(tool)
    return tools


def check(body: ResponsesBody) -> None:
    """Raises RequestError for what does not go together or is not served."""
    for wrong, param, message in (
        (
            body.background and body.store is False,
            "background",
            "background=true needs store=true: its answer has to be kept",
        ),
        (
            body.stream_options is not None and not body.stream,
            "stream_options",
            "stream_options need stream=true",
        ),
        (
            body.stream_options is not None and body.stream_options.include_obfuscation,
            "stream_options",
            "include_obfuscation is not supported; leave it out",
        ),
        (
            body.reasoning is not None and (body.reasoning.summary or body.reasoning.generate_summary),
            "reasoning",
            "reasoning.summary is not supported: reasoning comes as it is, not summarized; leave it out",
        ),
        (
            body.top_logprobs and LOGPROBS not in (body.include or ()),
            "top_logprobs",
            f"top_logprobs needs include=[{LOGPROBS!r}]",
        ),
    ):
        if wrong:
            raise RequestError(message, param=param)
    for name in body.include or ():
        if name not in (LOGPROBS, ENCRYPTED, *_NEVER_THERE):
            raise RequestError(f"include has {name[:100]!r}; use {LOGPROBS!r} or {ENCRYPTED!r}", param="include")
