"""From logits to tokens. Penalties, then temperature, then top-k, top-p and min-p, then a draw.

Every stage runs for those sequences only that need it, all of them at once; which ones is known on the host.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.compute.sampling.filters import candidates
from lightllm.compute.sampling.logprobs import logprobs
from lightllm.compute.sampling.parameters import Parameters, Upload
from lightllm.compute.sampling.penalties import forbid, penalize
from lightllm.compute.sampling.random import gumbel

LOT_NUMBERS = 1 << 24  # bounds temporary tensors: 128 MiB of int64
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
        self._everything = torch.arange(vocab, device=device)

    def begin(self, begins: np.ndarray, stop_tokens: np.ndarray) -> None:
        """Rows that begin: see StepPlan."""
        self._parameters.begin(begins, stop_tokens)

    def sample(self, logits: Tensor, rows: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Logprobs | None]:
        """The next token of each sequence, [n] int64, and log-probabilities of the raw logits where they are wanted.

        logits [n, vocab]; rows [n]; lengths [n]: tokens so far, so also the position of the token to be drawn.
        """
        raw = logits.float()
        tokens = self._draw(self._penalize(raw, rows, lengths), rows, lengths)
        return tokens, self._logprobs(raw, tokens, rows)

    def _penalize(self, raw: Tensor, rows: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Raw logits with penalties, and without the stop tokens of sequences that are too short to end."""
        known = self._parameters
        penalized = np.flatnonzero(known.is_penalized[rows])
        short = np.flatnonzero(lengths - known.prompt_length[rows] < known.min_tokens[rows])
        if not len(penalized) and not len(short):
            return raw
        logits, longest = raw.clone(), int(lengths[penalized].max(initial=0))
        for lot in _lots(penalized, max(longest, self._vocab)):
            where, on_device, length = self._upload(lot), self._upload(rows[lot]), self._upload(lengths[lot])
            chosen = known.choose(on_device)
            one = penalize(
                raw.index_select(0, where),
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

    def _draw(self, logits: Tensor, rows: np.ndarray, lengths: np.ndarray) -> Tensor:
        is_random, is_filtered = self._parameters.is_random[rows], self._parameters.is_filtered[rows]
        tokens = self._everything.new_empty(len(rows)) if is_random.all() else logits.argmax(-1)
        for draw, takes in ((self._draw_any, ~is_filtered), (self._draw_filtered, is_filtered)):
            for lot in _lots(np.flatnonzero(is_random & takes), self._vocab):
                where = self._upload(lot)
                drawn = draw(logits.index_select(0, where), self._upload(rows[lot]), self._upload(lengths[lot]))
                tokens.index_copy_(0, where, drawn)
        return tokens

    def _draw_any(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        chosen = self._parameters.choose(rows)
        noise = gumbel(chosen.seed, positions, self._everything)
        return _tempered(logits, chosen.temperature).add_(noise).argmax(-1)

    def _draw_filtered(self, logits: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        chosen = self._parameters.choose(rows)
        tempered = _tempered(logits, chosen.temperature)
        values, tokens = candidates(tempered, chosen.top_k, chosen.top_p, chosen.min_p)
        best = (values + gumbel(chosen.seed, positions, tokens)).argmax(-1, keepdim=True)
        return tokens.gather(1, best).squeeze(1)

    def _logprobs(self, raw: Tensor, tokens: Tensor, rows: np.ndarray) -> Logprobs | None:
        wanted = self._parameters.num_logprobs[rows]
        which = np.flatnonzero(wanted >= 0)
        if not len(which):
            return None
        where = self._upload(which)
        return Logprobs(which, *logprobs(raw.index_select(0, where), tokens.index_select(0, where), int(wanted.max())))


def _tempered(logits: Tensor, temperature: Tensor) -> Tensor:
    """(logits - largest) / temperature: finite or -inf however small the temperature."""
    return (logits - logits.amax(-1, keepdim=True)).div_(temperature.unsqueeze(1))


def _lots(which: np.ndarray, numbers: int) -> Iterator[np.ndarray]:
    """`which` cut so that no lot of rows of `numbers` numbers has more than LOT_NUMBERS; one lot as a rule."""
    count = max(LOT_NUMBERS // numbers, 1)
    return (which[start : start + count] for start in range(0, len(which), count))
