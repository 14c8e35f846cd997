"""From logits to tokens. What changes logits, in the order of Asked, then what ops.draw does: temperature, top-k,
top-p, min-p, a draw.

A stage that no sequence of the step needs is left out; the host knows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.sampling.allowed import Allowed
from lightllm.compute.sampling.forbidden import forbid
from lightllm.compute.sampling.masks import Masks
from lightllm.compute.sampling.parameters import CHANGES, Asked, Parameters
from lightllm.compute.transfers import Upload

History = tuple[Tensor, Tensor]  # slot_table and token_of_slot, where the tokens of every row are found
_LARGEST_GROWTH = 1e30  # times a logit this is still a number


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the sequences `which`: those that want any. K: the most likely tokens that any of them wants."""

    which: np.ndarray  # [n], on the host
    chosen: Tensor  # [n] float32
    top_tokens: Tensor  # [n, K] int64
    top: Tensor  # [n, K] float32


class Sampler:
    """Keeps the sampling parameters of all rows."""

    def __init__(self, *, rows: int, vocab: int, upload: Upload, history: History):
        self._vocab, self._upload, self._history = vocab, upload, history
        self._parameters = Parameters(rows, vocab, upload)
        # Each changes logits of the sequences `which` in place, which have these rows and lengths.
        self._changes = {
            Asked.PENALTIES: self._penalize,
            Asked.HASTENING: self._hasten,
            Asked.BIASES: self._add_biases,
            Asked.MIN_TOKENS: self._hold_back,
            Asked.MASK: self._mask,
            Asked.FIRST_MASK: self._mask_first,
        }

    def begin(self, begins: np.ndarray, stop_tokens: np.ndarray, words: np.ndarray) -> None:
        """Rows that begin: see StepPlan."""
        self._parameters.begin(begins, stop_tokens, words)

    def sample(
        self,
        logits: Tensor,
        rows: np.ndarray,
        lengths: np.ndarray,
        on_device: tuple[Tensor, Tensor] | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[Tensor, Logprobs | None]:
        """The next token of each sequence, [n] int64, and log-probabilities of the raw logits where they are wanted.

        logits [n, vocab]; rows [n]; lengths [n]: tokens so far, so also the position of the token to be drawn.
        on_device: rows and lengths, int64, if they are there already. allowed: what grammars allow.
        """
        asked = self._parameters.asked(rows, lengths)
        if allowed is not None:
            self._let_end(asked, rows, allowed)
        asked_by_any = int(np.bitwise_or.reduce(asked))
        is_changed = allowed is not None or asked_by_any & CHANGES
        changed = self._changed(logits, asked, rows, lengths, allowed) if is_changed else logits
        if asked_by_any & Asked.DRAW:
            tokens = self.draw(changed, *(on_device or (self._upload(rows), self._upload(lengths))))
        else:
            tokens = ops.most_likely(changed)
        return tokens, self._logprobs(logits, tokens, rows) if asked_by_any & Asked.LOGPROBS else None

    def asked_by_any(self, rows: np.ndarray, lengths: np.ndarray) -> int:
        """What of Asked any of these rows wants where it has so many tokens."""
        return int(np.bitwise_or.reduce(self._parameters.asked(rows, lengths)))

    def draw(self, logits: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """As `sample`, for rows that ask for nothing else, by what the device knows only."""
        chosen = self._parameters.choose(rows)
        return ops.draw(logits, chosen.temperature, chosen.top_k, chosen.top_p, chosen.min_p, chosen.seed, lengths)

    def _changed(
        self, logits: Tensor, asked: np.ndarray, rows: np.ndarray, lengths: np.ndarray, allowed: Allowed | None
    ) -> Tensor:
        """A new tensor, float32: the raw logits stay as they are."""
        logits = logits.to(torch.float32, copy=True)
        for what, change in self._changes.items():
            which = np.flatnonzero(asked & what)
            if len(which):
                change(logits, which, rows[which], lengths[which])
        if allowed is not None:
            self._restrict(logits, allowed)
        if len(which := np.flatnonzero(asked & Asked.TYPICAL)):
            self._keep_typical(logits, which, rows[which])
        return logits

    def _let_end(self, asked: np.ndarray, rows: np.ndarray, allowed: Allowed) -> None:
        """An answer that is complete ends, even if it has fewer than min_tokens."""
        short = np.flatnonzero(asked[allowed.which] & Asked.MIN_TOKENS)
        if len(short):
            which = allowed.which[short]
            other_tokens = allowed.masks_without(short, *self._parameters.stops.of(rows[which]))
            asked[which[~other_tokens.any(axis=1)]] &= ~Asked.MIN_TOKENS

    def _penalize(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        where, row, length = (self._upload(x) for x in (which, rows, lengths))
        chosen = self._parameters.choose(row)
        ops.penalize(
            logits,
            where,
            row,
            length,
            chosen.not_penalized,
            chosen.repetition_penalty,
            chosen.presence_penalty,
            chosen.frequency_penalty,
            int(lengths.max()),
            *self._history,
        )

    def _hasten(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        """exponential_decay_length_penalty: each logit x of an eos token becomes x + |x| (factor^tokens - 1)."""
        known = self._parameters
        place, tokens = known.ends.of(rows)
        with np.errstate(over="ignore"):
            growth = known.decay_factor[rows] ** (lengths - known.prompt_length[rows] - known.decay_start[rows])
        growth = np.minimum(growth, _LARGEST_GROWTH).astype(np.float32)[place] - 1
        where = self._upload(which[place]), self._upload(tokens)
        logit = logits[where]
        logits.index_put_(where, torch.where(logit.isinf(), logit, logit + logit.abs() * self._upload(growth)))

    def _add_biases(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        known = self._parameters
        counts = known.num_biases[rows]
        said = self._upload(np.stack([which, rows, lengths, known.biases.start[rows], counts]))
        where, row, length, start, count = said.unbind()
        most, deepest = int(counts.max()), int(known.deepest_bias[rows].max())
        words = known.biases.tensor
        ops.add_biases(logits, where, row, length, start, count, most, deepest, words, *self._history)

    def _hold_back(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        """No stop tokens for sequences that are too short to end."""
        place, tokens = self._parameters.stops.of(rows)
        forbid(logits, self._upload(which[place]), self._upload(tokens))

    def _mask(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        self._allow(logits, which, rows, self._parameters.masks)

    def _mask_first(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> None:
        self._allow(logits, which, rows, self._parameters.first_masks)

    def _allow(self, logits: Tensor, which: np.ndarray, rows: np.ndarray, masks: Masks) -> None:
        ops.allow(logits, self._upload(which), masks.tensor, self._upload(rows))

    def _keep_typical(self, logits: Tensor, which: np.ndarray, rows: np.ndarray) -> None:
        chosen = self._parameters.choose(self._upload(rows))
        ops.keep_typical(logits, self._upload(which), chosen.temperature, chosen.typical_p)

    def _restrict(self, logits: Tensor, allowed: Allowed) -> None:
        # Uploaded as what they are not, as integers would become wider.
        masks = self._upload(allowed.masks.view(np.float32)).view(torch.int32)
        ops.allow(logits, self._upload(allowed.which), masks, self._upload(np.arange(len(allowed.which))))

    def _logprobs(self, logits: Tensor, tokens: Tensor, rows: np.ndarray) -> Logprobs:
        wanted = self._parameters.num_logprobs[rows]
        which = np.flatnonzero(wanted >= 0)
        where, count = self._upload(which), min(int(wanted.max()), self._vocab)
        return Logprobs(which, *ops.logprobs(logits.index_select(0, where), tokens.index_select(0, where), count))
