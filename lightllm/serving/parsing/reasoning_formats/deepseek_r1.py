"""DeepSeek R1 with a template that does not open <think>: its answers begin with reasoning all the same.

Chosen by flag only. Where the template opens <think>, or the model writes it, the tags are there to be seen, and an
answer without them, as after the result of a tool, has no reasoning in it.
"""

from lightllm.serving.parsing.reasoning import ReasoningFormat

FORMAT = ReasoningFormat(
    name="deepseek_r1",
    aliases=("qwen3_thinking",),
    tags=(("<think>", "</think>"),),
    is_implied=True,
)
