"""Any model that writes {"name": NAME, "arguments": {...}}, as its answer, in a block of code, or between tags."""

from lightllm.serving.parsing.calls.json_calls import JsonCalls
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

_CLOSING = ("```", "</tool_call>", "</function_call>", "</tool_calls>")

FORMAT = ToolFormat(
    name="json",
    opening=("```json", "```tool_call", "<tool_call>", "<function_call>", "<tool_calls>"),
    closing=_CLOSING,
    is_bare=True,
    call=JsonCalls(ends=_CLOSING, only_offered=True),
    form=Form(call='{"name": NAME, "arguments": ARGUMENTS}'),
)
