"""Which of several samples of a prompt are the answer: those whose tokens are the likeliest on average."""

import math
from collections.abc import Sequence

from lightllm.base.request import SamplingParams
from lightllm.serving.records import Update


def chosen(samples: Sequence[Update], params: SamplingParams) -> list[int]:
    """Which of the samples of one prompt to answer with, the best first; in their own order if all of them are.

    They must carry their tokens if there are more than n.
    """
    if len(samples) == params.n:
        return list(range(params.n))
    return sorted(range(len(samples)), key=lambda sample: -_mean_logprob(samples[sample]))[: params.n]


def _mean_logprob(sample: Update) -> float:
    logprobs = sample.tokens.logprobs
    return -math.inf if logprobs is None or not len(logprobs) else float(logprobs.mean(dtype=float))
