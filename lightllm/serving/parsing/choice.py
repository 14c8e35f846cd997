"""Which formats a checkpoint's answers are read by: what its chat template shows, unless a flag says other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.serving.parsing.evidence import Traces
from lightllm.serving.parsing.reasoning import ReasoningParser
from lightllm.serving.parsing.reasoning_formats import deepseek_r1, qwen3, tags
from lightllm.serving.parsing.reasoning_formats import glm45 as glm45_reasoning
from lightllm.serving.parsing.tool_formats import (
    deepseek_v3,
    deepseek_v31,
    glm4,
    glm45,
    gpt_oss,
    hermes,
    internlm2,
    json_objects,
    llama3,
    mistral,
    pythonic,
    qwen3_coder,
)  # fmt: skip
from lightllm.serving.parsing.tools import ToolParser
from lightllm.serving.text.chat_template import find_sources

# Those with more to show come first: many templates have <tool_call>, few <arg_key> as well.
TOOL_FORMATS: tuple[ToolParser, ...] = (
    gpt_oss.FORMAT, deepseek_v3.FORMAT, deepseek_v31.FORMAT, glm45.FORMAT, qwen3_coder.FORMAT, internlm2.FORMAT,
    mistral.FORMAT, pythonic.FORMAT, hermes.FORMAT, llama3.FORMAT, glm4.FORMAT, json_objects.FORMAT,
)  # fmt: skip
REASONING_FORMATS: tuple[ReasoningParser, ...] = (
    gpt_oss.FORMAT, deepseek_r1.FORMAT, glm45_reasoning.FORMAT, qwen3.FORMAT, tags.FORMAT,
)  # fmt: skip

Parser = TypeVar("Parser", ToolParser, ReasoningParser)


@dataclass(frozen=True)
class Formats:
    """The formats of one checkpoint, None for none, and why."""

    tools: ToolParser | None = None
    reasoning: ReasoningParser | None = None
    why_tools: str = "not asked for"
    why_reasoning: str = "not asked for"

    def report(self) -> dict[str, str]:
        """What was chosen for each, and why."""
        return {
            "tool calls": f"{self.tools.name if self.tools else 'none'}: {self.why_tools}",
            "reasoning": f"{self.reasoning.name if self.reasoning else 'none'}: {self.why_reasoning}",
        }


def choose(config: EngineConfig) -> Formats:
    """The formats for the checkpoint in config.model_dir. Raises ConfigError for a flag that names none."""
    traces = Traces("\n".join(find_sources(config).values()), _added_tokens(config))
    tools, why_tools = _choose("tool_call_parser", config.tool_call_parser, TOOL_FORMATS, traces)
    reasoning, why_reasoning = _choose("reasoning_parser", config.reasoning_parser, REASONING_FORMATS, traces)
    if config.tool_call_parser == "auto":
        if "tools" not in traces.template:
            tools, why_tools = None, "the chat template takes no tools"
        elif tools is None:
            tools, why_tools = json_objects.FORMAT, "the chat template takes tools and shows no form of call known here"
    return Formats(tools, reasoning, why_tools, why_reasoning)


def _added_tokens(config: EngineConfig) -> frozenset[str]:
    """As tokenizer_config.json lists them."""
    about: Mapping[str, Any] = read_json(config.model_dir, "tokenizer_config.json", required=False)
    listed = about.get("added_tokens_decoder", {})
    return frozenset(token["content"] for token in listed.values() if "content" in token)


def _choose(flag: str, given: str, formats: Sequence[Parser], traces: Traces) -> tuple[Parser | None, str]:
    if given == "none":
        return None, f"--{flag}=none"
    if given != "auto":
        return _named(flag, given, formats), f"--{flag}={given}"
    # What a template writes weighs more than what a vocabulary could say.
    for looked_at in (Traces(traces.template, frozenset()), Traces("", traces.tokens)):
        for format in formats:
            if reason := format.evidence.found_in(looked_at):
                return format, reason
    return None, "neither the chat template nor the vocabulary shows any"


def _named(flag: str, given: str, formats: Iterable[Parser]) -> Parser:
    name = given.lower().replace("-", "_")
    for format in formats:
        if name in (format.name, *format.aliases):
            return format
    allowed = ", ".join(format.name for format in formats)
    raise ConfigError(f"--{flag}={given}: there is no such format; use auto, none, {allowed}")
