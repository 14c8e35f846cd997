"""GLM-4.5 to 4.7: <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>."""

from lightllm.serving.parsing.calls.tagged_call import TaggedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form, one_by_one
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="glm45",
    aliases=("glm46", "glm47", "glm"),
    evidence=Evidence(template=(("<arg_key>", "<arg_value>"),), tokens=("<arg_key>",)),
    opening=("<tool_call>",),
    call=TaggedCall(
        name=("", ""), key=("<arg_key>", "</arg_key>"), value=("<arg_value>", "</arg_value>"), end="</tool_call>"
    ),
    form=Form(
        call="<tool_call>NAME\nARGUMENTS</tool_call>",
        arguments=one_by_one("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
        trigger="<tool_call>",
    ),
)
