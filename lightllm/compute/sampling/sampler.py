"""From logits to tokens. Penalties, then what ops.draw does: temperature, top-k, top-p, min-p, a draw.

A stage that no sequence of the step needs is left out; the host knows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.sampling.parameters import Parameters, Upload
from lightllm.compute.sampling.penalties import forbid, penalize

LOT_NUMBERS = 1 << 24  # bounds temporary tensors of penalties: 128 MiB of int64
Context = Callable[[Tensor, int], Tensor]  # rows [n] -> their tokens at positions 0 ... longest - 1, [n, longest] int64


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the sequences `which`: those that want any. K: the most likely tokens that any of them wants."""

    which: np.ndarray  # [n], on the host
    chosen: Tensor  # [n] float32
    top_tokens: Tensor  # [n, K] int64
    top: Tensor  # [n, K] float32


class Sampler:
    """Keeps the sampling parameters of all rows."""

    def __init__(self, *, rows: int, vocab: int, device: torch.device, upload: Upload, context: Context):
        self._vocab, self._upload, self._context = vocab, upload, context
        self._parameters = Parameters(rows, vocab, device, upload)

    def begin(self, begins: np.ndarray, stop_tokens: np.ndarray) -> None:
        """Rows that begin: see StepPlan."""
        self._parameters.begin(begins, stop_tokens)

    def sample(
        self,
        logits: Tensor,
        rows: np.ndarray,
        lengths: np.ndarray,
        on_device: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Logprobs | None]:
        """The next token of each sequence, [n] int64, and log-probabilities of the raw logits where they are wanted.

        logits [n, vocab]; rows [n]; lengths [n]: tokens so far, so also the position of the token to be drawn.
        on_device: rows and lengths, int64, if they are there already.
        """
        penalized = self._penalize(logits, rows, lengths)
        if self._parameters.is_random[rows].any():
            tokens = self._draw(penalized, *(on_device or (self._upload(rows), self._upload(lengths))))
        else:
            tokens = penalized.argmax(-1)
        return tokens, self._logprobs(logits, tokens, rows)

    def _penalize(self, logits: Tensor, rows: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The logits with penalties, and without the stop tokens of sequences that are too short to end. A new tensor,
        float32, if there are any of these."""
        known = self._parameters
        penalized = np.flatnonzero(known.is_penalized[rows])
        short = np.flatnonzero(lengths - known.prompt_length[rows] < known.min_tokens[rows])
        if not len(penalized) and not len(short):
            return logits
        logits, longest = logits.to(torch.float32, copy=True), int(lengths[penalized].max(initial=0))
        for lot in _lots(penalized, max(longest, self._vocab)):
            where, on_device, length = self._upload(lot), self._upload(rows[lot]), self._upload(lengths[lot])
            chosen = known.choose(on_device)
            one = penalize(
                logits.index_select(0, where),
                self._context(on_device, longest),
                length,
                chosen.prompt_length,
                repetition=chosen.repetition_penalty,
                presence=chosen.presence_penalty,
                frequency=chosen.frequency_penalty,
            )
            logits.index_copy_(0, where, one)
        stops = known.stops[rows[short]]
        which, column = np.nonzero(stops >= 0)
        return forbid(logits, self._upload(short[which]), self._upload(stops[which, column]))

    def _draw(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        chosen = self._parameters.choose(rows)
        return ops.draw(logits, chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p, chosen.seed, positions)

    def _logprobs(self, logits: Tensor, tokens: Tensor, rows: np.ndarray) -> Logprobs | None:
        wanted = self._parameters.num_logprobs[rows]
        which = np.flatnonzero(wanted >= 0)
        if not len(which):
            return None
        where, count = self._upload(which), min(int(wanted.max()), self._vocab)
        return Logprobs(which, *ops.logprobs(logits.index_select(0, where), tokens.index_select(0, where), count))


def _lots(which: np.ndarray, numbers: int) -> Iterator[np.ndarray]:
    """`which` cut so that no lot of rows of `numbers` numbers has more than LOT_NUMBERS; one lot as a rule."""
    count = max(LOT_NUMBERS // numbers, 1)
    return (which[start : start + count] for start in range(0, len(which), count))
