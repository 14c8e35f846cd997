"""DeepSeek R1 and V3.1, Magistral, and any model whose reasoning stands between tags that say so, at the beginning."""

from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.reasoning import ReasoningFormat

_WORDS = ("think", "thinking", "thought", "reasoning", "seed:think")
_TAGS = (*((f"<{word}>", f"</{word}>") for word in _WORDS), ("[THINK]", "[/THINK]"))

FORMAT = ReasoningFormat(
    name="tags",
    aliases=("generic", "deepseek_v31"),
    tags=_TAGS,
    evidence=Evidence(template=tuple((end,) for _, end in _TAGS), tokens=tuple(end for _, end in _TAGS)),
)
