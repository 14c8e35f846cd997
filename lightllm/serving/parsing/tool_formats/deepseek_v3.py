"""DeepSeek V3 and R1: the type of the call, its name, and the arguments as a block of code, within special tokens."""

from lightllm.serving.parsing.calls.named_call import NamedCall
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

BEGIN, END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
FIRST, LAST = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

FORMAT = ToolFormat(
    name="deepseek_v3",
    aliases=("deepseekv3",),
    evidence=Evidence(template=((BEGIN, "```json"),), tokens=(BEGIN,)),
    opening=(FIRST,),
    begins=(BEGIN,),
    closing=(END, LAST),
    call=NamedCall(before=(BEGIN, "function", SEPARATOR), after=("```json",), behind=("```",), ends=(END,)),
    form=Form(
        call=f"{BEGIN}function{SEPARATOR}NAME\n```json\nARGUMENTS\n```{END}", first=FIRST, last=LAST, trigger=FIRST
    ),
    shown=(SEPARATOR,),
)
