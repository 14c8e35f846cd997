"""InternLM2: <|action_start|><|plugin|>{"name": NAME, "parameters": {...}}<|action_end|>."""

from lightllm.serving.parsing.calls.json_calls import JsonCalls
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.forms import Form
from lightllm.serving.parsing.tools import ToolFormat

_ENDS = ("<|action_end|>",)

FORMAT = ToolFormat(
    name="internlm2",
    aliases=("internlm",),
    evidence=Evidence(template=(("<|action_start|>",),), tokens=("<|action_start|>",)),
    opening=("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"),
    closing=_ENDS,
    call=JsonCalls(ends=_ENDS),
    form=Form(
        call='<|action_start|><|plugin|>{"name": NAME, "parameters": ARGUMENTS}<|action_end|>',
        trigger="<|action_start|>",
    ),
)
