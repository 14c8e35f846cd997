"""DeepSeek V3.1: <｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{...}<｜tool▁call▁end｜>, all calls within one more pair."""

from lightllm.serving.parsing.calls.named_call import NamedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tool_formats.deepseek_v3 import BEGIN, END, FIRST, LAST, SEPARATOR
from lightllm.serving.parsing.tools import ToolFormat

FORMAT = ToolFormat(
    name="deepseek_v31",
    aliases=("deepseekv31",),
    evidence=Evidence(template=((BEGIN,),)),
    opening=(FIRST,),
    begins=(BEGIN,),
    closing=(END, LAST),
    call=NamedCall(before=(BEGIN,), after=(SEPARATOR,), ends=(END,)),
    form=Form(call=f"{BEGIN}NAME{SEPARATOR}ARGUMENTS{END}", first=FIRST, between="", last=LAST, trigger=FIRST),
    shown=(SEPARATOR,),
)
