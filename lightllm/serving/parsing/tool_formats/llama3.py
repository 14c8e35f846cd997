"""Llama 3.1 to 3.3: the answer is {"name": NAME, "parameters": {...}}, at times after <|python_tag|>.

What else follows <|python_tag|>, code for an interpreter, is text.
"""

from lightllm.serving.parsing.calls.json_calls import JsonCalls
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="llama3",
    aliases=("llama3_json", "llama4_json"),
    evidence=Evidence(
        template=(("<|python_tag|>",), ("<|start_header_id|>", '"parameters"')), tokens=("<|python_tag|>",)
    ),
    opening=("<|python_tag|>",),
    is_bare=True,
    call=JsonCalls(ends=("<|python_tag|>",), only_offered=True),
    form=Form(call='{"name": NAME, "parameters": ARGUMENTS}', between="; ", first_letters="{"),
)
