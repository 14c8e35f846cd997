"""Llama 3.2 and 4, ToolACE: the answer is [NAME(KEY=VALUE, ...), ...] in Python's syntax."""

from lightllm.serving.parsing.calls.python_calls import PythonCalls
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form, as_keywords
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="pythonic",
    aliases=("llama4_pythonic",),
    evidence=Evidence(template=(("<|python_start|>",), ("[func_name1(",)), tokens=("<|python_start|>",)),
    opening=("<|python_start|>",),
    closing=("<|python_end|>",),
    is_bare=True,
    call=PythonCalls(),
    form=Form(call="NAME(ARGUMENTS)", arguments=as_keywords, first="[", between=", ", last="]", first_letters="\\["),
)
