"""Qwen3: <think>...</think>, or an empty pair where the prompt asks for an answer at once."""

from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.reasoning import ReasoningFormat

FORMAT = ReasoningFormat(
    name="qwen3",
    tags=(("<think>", "</think>"),),
    evidence=Evidence(template=(("<|im_start|>", "</think>"),)),
)
