"""Qwen3-Coder, Qwen 3.5: <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>."""

from lightllm.serving.parsing.calls.tagged_call import TaggedCall
from lightllm.serving.parsing.evidence import Evidence
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
)
