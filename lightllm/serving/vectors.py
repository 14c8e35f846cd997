"""What the vectors mean that models without an output head give: embeddings, rewards, and how well two texts match."""

import numpy as np

from lightllm.base.request import SamplingParams

# A vector comes with the one token that every request has at least.
PARAMS = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)


def score(vectors: list[np.ndarray]) -> float:
    """Cosine of two embeddings, or sigmoid of one classifier's only output."""
    if len(vectors) == 2:
        left, right = (vector.astype(np.float64) for vector in vectors)
        return float(left @ right / np.sqrt((left @ left) * (right @ right)))
    return float(0.5 + 0.5 * np.tanh(vectors[0][0].astype(np.float64) / 2))
