"""DeepSeek R1 and V3.1: the prompt opens <think>, or the answer is taken to."""

from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.reasoning import ReasoningFormat

FORMAT = ReasoningFormat(
    name="deepseek_r1",
    aliases=("deepseek_v31", "qwen3_thinking"),
    tags=(("<think>", "</think>"),),
    # Without <think> in the template the model itself decides whether to reason, and says so.
    evidence=Evidence(template=(("<｜Assistant｜>", "<think>", "</think>"),)),
    is_implied=True,
)
