"""What the vectors mean that models without an output head give: embeddings, rewards, and how well two texts match."""

import numpy as np

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.base.task import Task

# A vector comes with the one token that every request has at least.
PARAMS = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
TINY = 1e-12
_ACTIVATIONS = {"Sigmoid": lambda x: 0.5 + 0.5 * np.tanh(x / 2), "Identity": lambda x: x, "Tanh": np.tanh}


def shortened(task: Task, vector: np.ndarray, width: int | None) -> np.ndarray:
    """The first `width` numbers of an embedding [task.width], as long as embeddings of this model are."""
    if width in (None, len(vector)):
        return vector
    first = vector[:width]
    return first / max(float(np.linalg.norm(first)), TINY) if task.normalizes else first


def check_width(task: Task, width: int | None) -> None:
    """Raises RequestError for a number of dimensions that this model's embeddings may not be shortened to."""
    if width is None or width in task.widths:
        return
    some = isinstance(task.widths, range) and f"1 to {task.width}"
    raise RequestError(
        f"dimensions={width}: embeddings of this model have {some or ', '.join(map(str, task.widths))}",
        param="dimensions",
    )


def score(task: Task, vectors: list[np.ndarray]) -> float:
    """Cosine of two embeddings, or what a classifier's only output becomes: its sigmoid, if nothing else."""
    if len(vectors) == 2:
        left, right = (vector.astype(np.float64) for vector in vectors)
        return float(left @ right / np.sqrt((left @ left) * (right @ right)))
    return float(_ACTIVATIONS[task.activation](vectors[0][0].astype(np.float64)))
