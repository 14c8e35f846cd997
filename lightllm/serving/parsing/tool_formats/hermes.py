"""Hermes, Qwen 2.5, Qwen 3: <tool_call>{"name": NAME, "arguments": {...}}</tool_call>, once for each call."""

from lightllm.serving.parsing.calls.json_calls import JsonCalls
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

_ENDS = ("</tool_call>",)

FORMAT = ToolFormat(
    name="hermes",
    aliases=("qwen", "qwen25", "qwen2_5", "qwen3"),
    evidence=Evidence(template=(("<tool_call>",),), tokens=("<tool_call>",)),
    opening=("<tool_call>",),
    closing=_ENDS,
    call=JsonCalls(ends=_ENDS),
    form=Form(call='<tool_call>\n{"name": NAME, "arguments": ARGUMENTS}\n</tool_call>', trigger="<tool_call>"),
)
