"""Chat messages to a prompt, with the checkpoint's Jinja template.

Templates see what transformers shows them: the same names, filters and whitespace rules. They come with a checkpoint
that nobody has read, so they run in a sandbox in which they can change nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError, RequestError

Message = dict[str, Any]

# Ends with a space, so that it shows whether the template strips the message.
_END_MARK = "\ue000end of the final message\ue001 "
_RESERVED = ("messages", "tools", "add_generation_prompt", "documents")
_LONGEST_REASON = 500  # characters of a template's own error message


@dataclass(frozen=True)
class _CallForm:
    """What a message with calls looks like: whether arguments are JSON text, and what stands for no content."""

    has_text_arguments: bool
    no_content: str | None

    def of(self, message: Message) -> Message:
        """The message in this form. Arguments that are text already are none that an object could hold."""
        calls = [self._of_call(call) for call in message["tool_calls"]]
        return {**message, "content": message.get("content") or self.no_content, "tool_calls": calls}

    def _of_call(self, call: dict[str, Any]) -> dict[str, Any]:
        function, arguments = call["function"], call["function"].get("arguments")
        if self.has_text_arguments and not isinstance(arguments, str):
            arguments = _to_json(arguments)
        return {**call, "function": {**function, "arguments": arguments}}


# Templates differ, and say so only by failing. Most take objects, and null for no content.
_CALL_FORMS = [_CallForm(has_text, no_content) for no_content in (None, "") for has_text in (False, True)]


class ChatTemplate:
    """A checkpoint's templates by name; "tool_use", where there is one, serves requests with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]):
        """Raises ConfigError for a template that does not parse."""
        environment = _environment()
        self._special_tokens = dict(special_tokens)
        self._sources = dict(sources)
        self._call_forms: dict[str, _CallForm] = {}
        try:
            self._templates = {name: environment.from_string(source) for name, source in sources.items()}
            self._variables = {
                name: meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)
                for name, source in sources.items()
            }
        except TemplateError as error:
            raise ConfigError(f"the chat template does not parse: {error}; give another with --chat_template") from None

    @classmethod
    def load(cls, config: EngineConfig, special_tokens: Mapping[str, str]) -> "ChatTemplate | None":
        """--chat_template if given, else the checkpoint's own, else None."""
        sources = find_sources(config)
        return cls(sources, special_tokens) if sources else None

    def render(
        self,
        messages: list[Message],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt. Raises RequestError where the template refuses the messages or lacks what they need."""
        name = self._choose(has_tools=bool(tools))
        self._check_known(name, tools, variables or {})
        if "developer" not in self._sources[name]:
            messages = [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]
        if continue_final_message:
            messages = _with_end_mark(messages)
        values = self._special_tokens | dict(variables or {})
        try:
            if any(message.get("tool_calls") for message in messages):
                form = self._call_form(name)
                messages = [form.of(message) if message.get("tool_calls") else message for message in messages]
            text = self._templates[name].render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **values,
            )
        # A template can fail in any way that code can; each is for whoever sent the messages.
        except Exception as error:
            reason = f"{error}"[:_LONGEST_REASON] or type(error).__name__
            raise RequestError(f"the chat template refuses these messages: {reason}", param="messages") from None
        return _cut_at_end_mark(text) if continue_final_message else text

    def _call_form(self, name: str) -> "_CallForm":
        """The form in which a template understands calls; the commonest where it understands none."""
        if name not in self._call_forms:
            understood = (form for form in _CALL_FORMS if self._understands(name, form))
            self._call_forms[name] = next(understood, _CALL_FORMS[0])
        return self._call_forms[name]

    def _understands(self, name: str, form: "_CallForm") -> bool:
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
        messages = [{"role": "user", "content": "a"}, form.of({"role": "assistant", "tool_calls": [call]})]
        try:
            text = self._templates[name].render(messages=messages, tools=None, documents=None, **self._special_tokens)
        except Exception:  # a template can fail in any way that code can
            return False
        # Shown an object that it takes for text, a template writes it as Python does; and the other way round, twice.
        return '{"a": "b"}' in text if form.has_text_arguments else "{'a': 'b'}" not in text

    def _choose(self, *, has_tools: bool) -> str:
        if has_tools and "tool_use" in self._templates:
            return "tool_use"
        if "default" in self._templates:
            return "default"
        raise RequestError(
            f"the checkpoint has chat templates {', '.join(self._templates)} and no default; "
            "start the server with --chat_template"
        )

    def knows(self, variable: str, *, has_tools: bool) -> bool:
        """Whether a value for this variable makes a difference."""
        return variable in self._variables[self._choose(has_tools=has_tools)]

    def mentions(self, *words: str) -> bool:
        """Whether the template for requests without tools has all these words, in capitals or not."""
        source = self._sources[self._choose(has_tools=False)]
        return all(re.search(rf"\b{word}\b", source, re.IGNORECASE) for word in words)

    def _check_known(self, name: str, tools: object, variables: Mapping[str, Any]) -> None:
        """What a template does not mention it would ignore without a word."""
        known = self._variables[name]
        if tools and "tools" not in known:
            raise RequestError("this model's chat template does not know tools; ask without them", param="tools")
        for variable in variables:
            if variable in _RESERVED or variable not in known:
                allowed = sorted(known - set(_RESERVED) - set(self._special_tokens)) or ["none"]
                raise RequestError(
                    f"the chat template has no variable {variable[:100]!r} to set; it has: {', '.join(allowed)}",
                    param=variable[:100],
                )


def find_sources(config: EngineConfig) -> dict[str, str]:
    """Template texts by name, from --chat_template or the checkpoint; {} if there are none."""
    if config.chat_template:
        return {"default": _read(Path(config.chat_template), "--chat_template")}
    folder = Path(config.model_dir)
    sources = _of_config(read_json(folder, "tokenizer_config.json", required=False).get("chat_template"))
    sources = sources or _of_config(read_json(folder, "chat_template.json", required=False).get("chat_template"))
    # Files of their own go before what the configuration holds, as in transformers.
    paths = {path.stem: path for path in (folder / "additional_chat_templates").glob("*.jinja")}
    if (folder / "chat_template.jinja").is_file():
        paths["default"] = folder / "chat_template.jinja"
    files = {name: _read(path, "--model_dir") for name, path in paths.items()}
    return files or sources


def _of_config(template: object) -> dict[str, str]:
    """A template, or a list of {name, template}."""
    if isinstance(template, str):
        return {"default": template}
    if isinstance(template, list):
        return {named["name"]: named["template"] for named in template}
    return {}


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag}: cannot read the chat template {path}: {error}") from None


def _with_end_mark(messages: list[Message]) -> list[Message]:
    """The messages with a mark after the final one's text, which shows where the prompt is to be cut."""
    content = messages[-1].get("content")
    if not isinstance(content, str):
        raise RequestError("continue_final_message needs a final message with text", param="continue_final_message")
    return [*messages[:-1], {**messages[-1], "content": content + _END_MARK}]


def _cut_at_end_mark(text: str) -> str:
    before, mark, after = text.rpartition(_END_MARK.rstrip())
    before = before.replace(_END_MARK, "")  # of a template that shows the message more than once
    if not mark:
        raise RequestError(
            "continue_final_message: the chat template does not show the final message's text as it is",
            param="continue_final_message",
        )
    return before if after.startswith(" ") else before.rstrip()


class _GenerationBlock(Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it is only what it holds."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
