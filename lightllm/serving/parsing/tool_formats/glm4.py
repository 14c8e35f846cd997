"""GLM-4: the answer is the name of a tool, and on the next line a JSON object of arguments."""

from lightllm.serving.parsing.calls.named_call import NamedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="glm4",
    aliases=("glm4_0414",),
    evidence=Evidence(template=(("<|observation|>", "[gMASK]"),), tokens=("<|observation|>",)),
    opening=("<|assistant|>",),  # before each call but the first
    is_bare=True,
    call=NamedCall(only_offered=True, ends=("<|assistant|>",)),
    form=Form(call="NAME\nARGUMENTS", between="<|assistant|>"),
)
