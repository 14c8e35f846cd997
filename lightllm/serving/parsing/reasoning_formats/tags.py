"""Any model that puts its reasoning between tags which say so, at the beginning of its answer."""

from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.reasoning import ReasoningFormat

_WORDS = ("think", "thinking", "thought", "reasoning", "seed:think")
_TAGS = (*((f"<{word}>", f"</{word}>") for word in _WORDS), ("[THINK]", "[/THINK]"))

FORMAT = ReasoningFormat(
    name="tags",
    aliases=("generic",),
    tags=_TAGS,
    evidence=Evidence(template=tuple((end,) for _, end in _TAGS), tokens=tuple(end for _, end in _TAGS)),
)
