"""From logits to tokens. Penalties, then what ops.draw does: temperature, top-k, top-p, min-p, a draw.

A stage that no sequence of the step needs is left out; the host knows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.sampling.forbidden import forbid
from lightllm.compute.sampling.parameters import Parameters, Upload

History = tuple[Tensor, Tensor]  # slot_table and token_of_slot, where the tokens of every row are found


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the sequences `which`: those that want any. K: the most likely tokens that any of them wants."""

    which: np.ndarray  # [n], on the host
    chosen: Tensor  # [n] float32
    top_tokens: Tensor  # [n, K] int64
    top: Tensor  # [n, K] float32


class Sampler:
    """Keeps the sampling parameters of all rows."""

    def __init__(self, *, rows: int, vocab: int, device: torch.device, upload: Upload, history: History):
        self._vocab, self._upload, self._history = vocab, upload, history
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
            tokens = ops.most_likely(penalized)
        return tokens, self._logprobs(logits, tokens, rows)

    def _penalize(self, logits: Tensor, rows: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The logits with penalties, and without the stop tokens of sequences that are too short to end. A new tensor,
        float32, if there are any of these."""
        known = self._parameters
        penalized = np.flatnonzero(known.is_penalized[rows])
        short = np.flatnonzero(lengths - known.prompt_length[rows] < known.min_tokens[rows])
        if not len(penalized) and not len(short):
            return logits
        logits = logits.to(torch.float32, copy=True)
        if len(penalized):
            where, row, length = (self._upload(x) for x in (penalized, rows[penalized], lengths[penalized]))
            chosen = known.choose(row)
            ops.penalize(
                logits,
                where,
                row,
                length,
                chosen.prompt_length,
                chosen.repetition_penalty,
                chosen.presence_penalty,
                chosen.frequency_penalty,
                int(lengths[penalized].max()),
                *self._history,
            )
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
