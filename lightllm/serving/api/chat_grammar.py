"""What the answer to a chat must look like: tools that have to be called or have strict arguments, and the form that
was asked for, after whatever the model reasons."""

import msgspec

from lightllm.base.errors import RequestError
from lightllm.base.grammar import Either, Grammar, Optional, Regex
from lightllm.base.grammar import Sequence as InOrder
from lightllm.base.request import SamplingParams
from lightllm.serving.api.chat_parsing import ChatParsing
from lightllm.serving.parsing.reasoning import Beginning

_SPACE = Regex(r"[ \n]{1,4}")  # that models write between their reasoning and the answer


def held(params: SamplingParams, parsing: ChatParsing, beginning: Beginning) -> SamplingParams:
    """The same with the grammar of the whole answer, if there is anything to hold it to. Raises RequestError."""
    grammar = _answer(parsing, params.grammar)
    if grammar is None:
        return params
    if parsing.reasoning_format is not None and (before := parsing.reasoning_format.grammar(beginning)) is not None:
        grammar = InOrder([before, Optional(_SPACE), grammar])
    return msgspec.structs.replace(params, grammar=grammar)


def _answer(parsing: ChatParsing, asked: Grammar | None) -> Grammar | None:
    """Without reasoning. asked: what its text must look like."""
    choice, tool_format, reasoning_format = parsing.choice, parsing.tool_format, parsing.reasoning_format
    if asked is not None and reasoning_format is not None:
        asked = reasoning_format.as_text(asked)
    is_strict = any(tool.is_strict for tool in choice.tools)
    if not choice.tools or not (choice.is_required or is_strict or asked is not None):
        return asked
    if tool_format is None:
        if choice.is_required or is_strict:
            raise RequestError(
                "in which form this model calls tools is not known; start the server with --tool_call_parser",
                param="tools",
            )
        return asked
    form = tool_format.form
    if choice.is_required:
        return form.calls(choice.tools, several=choice.several)
    if asked is not None:
        return Either([form.calls(choice.tools, several=choice.several), asked])
    among_text = form.among_text(choice.tools, several=choice.several)
    if among_text is None:
        raise RequestError(
            f"in the form {tool_format.name} a call cannot be told from text before it is read: a strict tool needs "
            "tool_choice=required or its name; or make strict false",
            param="tools",
        )
    return among_text
