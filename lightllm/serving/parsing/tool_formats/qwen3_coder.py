"""Qwen3-Coder, Qwen 3.5: <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>."""

from lightllm.serving.parsing.calls.tagged_call import TaggedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form, one_by_one
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="qwen3_coder",
    aliases=("qwen3_xml",),
    evidence=Evidence(template=(("<function=", "<parameter="),)),
    opening=("<tool_call>",),
    begins=("<function=",),
    closing=("</tool_call>",),
    call=TaggedCall(
        name=("<function=", ">"),
        key=("<parameter=", ">"),
        value=("", "</parameter>"),
        end="</function>",
        is_on_lines=True,
    ),
    form=Form(
        call="<tool_call>\n<function=NAME>\nARGUMENTS</function>\n</tool_call>",
        arguments=one_by_one("<parameter=", ">\n", "\n</parameter>\n"),
        trigger="<tool_call>",
    ),
)
