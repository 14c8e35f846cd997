"""GLM-4.5 to 4.7: <think>...</think>, or an empty pair where the prompt asks for an answer at once."""

from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.reasoning import ReasoningFormat

FORMAT = ReasoningFormat(
    name="glm45",
    aliases=("glm46", "glm47"),
    tags=(("<think>", "</think>"),),
    evidence=Evidence(template=(("[gMASK]", "</think>"),)),
)
