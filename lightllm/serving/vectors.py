"""What the vectors mean that models without an output head give: embeddings, rewards, and how well two texts match."""

from typing import NamedTuple

import numpy as np

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.base.task import Task
from lightllm.serving.text.tokenizer import TextTokenizer

# A vector comes with the one token that every request has at least.
PARAMS = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)


class Pair(NamedTuple):
    """Prompts whose vectors say how well two texts match: of each text, or one of both."""

    prompts: list[list[int]]


def pair(task: Task, tokenizer: TextTokenizer, left: str, right: str) -> Pair:
    """Raises RequestError for a model that does not compare texts."""
    if task.kind == "embed":
        return Pair([tokenizer.encode(text, add_special_tokens=True) for text in (left, right)])
    if task.kind == "classify" and task.width == 1:
        return Pair([tokenizer.encode_pair(left, right)])
    labels = f" with {task.width} labels" if task.kind == "classify" else ""
    raise RequestError(
        f"the model {task.name}{labels}; to compare texts takes an embedding model or a classifier with one label",
        param="model",
    )


def score(vectors: list[np.ndarray]) -> float:
    """Cosine of two embeddings, or sigmoid of one classifier's only output."""
    if len(vectors) == 2:
        left, right = (vector.astype(np.float64) for vector in vectors)
        return float(left @ right / np.sqrt((left @ left) * (right @ right)))
    return float(1 / (1 + np.exp(-vectors[0][0].astype(np.float64))))
