"""How many tokens requests will generate: the interface of what predicts it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightllm.serving.scheduling.peak_memory import Counts
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.rows import Rows


@dataclass(frozen=True, slots=True)
class Outputs:
    """n outputs in the making; all [n]."""

    order: Counts  # of their arrival
    prompt_length: Counts
    max_tokens: Counts
    max_tokens_given: NDArray[np.bool_]
    can_stop: NDArray[np.bool_]
    produced: Counts  # tokens so far
    least: Counts  # tokens that each has at its end at least

    @classmethod
    def of(cls, rows: Rows, which: Counts, num_output: NDArray[np.int32]) -> "Outputs":
        # What has not ended generates one more at least.
        least = np.maximum(num_output + 1, rows.min_tokens[which])
        return cls(
            order=rows.order[which],
            prompt_length=rows.prompt_length[which],
            max_tokens=rows.max_tokens[which],
            max_tokens_given=rows.max_tokens_given[which],
            can_stop=rows.can_stop[which],
            produced=num_output.astype(np.int64),
            least=np.minimum(least, rows.max_tokens[which]),
        )

    @classmethod
    def of_request(cls, request: Request) -> "Outputs":
        """Of one that has not run."""
        return cls(
            order=np.array([request.order]),
            prompt_length=np.array([request.prompt_length]),
            max_tokens=np.array([request.max_tokens]),
            max_tokens_given=np.array([request.max_tokens_given]),
            can_stop=np.array([request.can_stop]),
            produced=np.array([0]),
            least=np.array([min(max(1, request.min_tokens), request.max_tokens)]),
        )


class LengthPredictor(Protocol):
    """Learns from requests that have ended how long others will be."""

    @property
    def num_observed(self) -> int:
        """Ended requests that predictions rest on now."""
        ...

    def observe(self, request: Request, num_output: int) -> None:
        """The request has ended by itself after `num_output` tokens: by a stop token or string, or its maximum."""
        ...

    def draw(self, outputs: Outputs, quantiles: NDArray[np.float64]) -> Counts:
        """Lengths [samples, n] at these quantiles [samples, n], all in [0, 1), of what each output's can be.

        Deterministic. At least outputs.least, at most outputs.max_tokens.
        """
        ...

    def expected_output(self, request: Request) -> int:
        """Tokens that a request which has not run will generate, on average."""
        ...
