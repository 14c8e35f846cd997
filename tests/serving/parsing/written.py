"""Answers as models of each format write them: from texts and calls to what a parser should find again."""

import json
from collections.abc import Callable
from typing import Any

Arguments = dict[str, Any]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _tagged(before: str, after: str, key: tuple[str, str], value: tuple[str, str], end: str):
    def write(name: str, arguments: Arguments) -> str:
        parameters = "".join(
            f"{key[0]}{k}{key[1]}\n{value[0]}{v if isinstance(v, str) else _json(v)}{value[1]}\n"
            for k, v in arguments.items()
        )
        return f"{before}{name}{after}\n{parameters}{end}"

    return write


def _python(name: str, arguments: Arguments) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


# One call among text.
AMONG_TEXT: dict[str, Callable[[str, Arguments], str]] = {
    "hermes": lambda name, arguments: (
        f'<tool_call>\n{{"name": "{name}", "arguments": {_json(arguments)}}}\n</tool_call>'
    ),
    "qwen3_coder": _tagged(
        "<tool_call>\n<function=", ">", ("<parameter=", ">"), ("", "\n</parameter>"), "</function>\n</tool_call>"
    ),
    "glm45": _tagged("<tool_call>", "", ("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>"), "</tool_call>"),
    "llama3": lambda name, arguments: f'<|python_tag|>{{"name": "{name}", "parameters": {_json(arguments)}}}',
    "mistral": lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{_json(arguments)}",
    "deepseek_v3": lambda name, arguments: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(arguments)}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek_v31": lambda name, arguments: (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_json(arguments)}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "internlm2": lambda name, arguments: (
        f'<|action_start|><|plugin|>\n{{"name": "{name}", "parameters": {_json(arguments)}}}<|action_end|>'
    ),
    "pythonic": lambda name, arguments: f"<|python_start|>[{_python(name, arguments)}]<|python_end|>",
    "glm4": lambda name, arguments: f"<|assistant|>{name}\n{_json(arguments)}",
    "json": lambda name, arguments: f'```json\n{{"name": "{name}", "arguments": {_json(arguments)}}}\n```',
    "gpt_oss": lambda name, arguments: (
        f"<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{_json(arguments)}<|call|>"
    ),
}
