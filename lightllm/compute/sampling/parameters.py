"""Sampling parameters of all rows: on the device for computing, on the host for knowing what need not be computed."""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightllm.base.token_words import WORDS_OF_BIAS
from lightllm.compute.sampling.masks import Masks
from lightllm.compute.sampling.token_lists import TokenLists
from lightllm.compute.sampling.words import Words
from lightllm.compute.transfers import Upload

FLOATS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
INTEGERS = ("top_k", "seed", "not_penalized")
_ALIGN = 4  # numbers of 4 bytes in 16 bytes
_OF_WORDS = ("num_bias_words", "num_ends", "num_mask_words", "num_first_mask_words")  # in the order of a row's words


class Asked(IntFlag):
    """What a row asks for beside the largest logit."""

    DRAW = 1
    LOGPROBS = 2
    # What changes logits.
    PENALTIES = 4
    HASTENING = 8  # exponential_decay_length_penalty
    BIASES = 16
    MIN_TOKENS = 32
    MASK = 64
    FIRST_MASK = 128
    TYPICAL = 256


CHANGES = int(~(Asked.DRAW | Asked.LOGPROBS))
_BY_LENGTH = int(Asked.MIN_TOKENS | Asked.HASTENING | Asked.FIRST_MASK)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Parameters of some rows, on the device: each [rows], float32 or int64, without gaps, from a multiple of 16 bytes
    on, so that kernels are compiled for one kind of address only."""

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    typical_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    top_k: Tensor  # vocab where it is off
    seed: Tensor
    not_penalized: Tensor  # tokens at the beginning that presence and frequency penalties do not count


class Parameters:
    """Set where a row begins. The public arrays are the host's, by row."""

    def __init__(self, rows: int, vocab: int, upload: Upload):
        self._vocab, self._upload = vocab, upload
        # One more: padded sequences run in a row of their own, and take the largest logit.
        self._floats = torch.zeros(len(FLOATS), rows + 1, device=upload.device)
        self._integers = torch.zeros(len(INTEGERS), rows + 1, dtype=torch.int64, device=upload.device)
        self._asked = np.zeros(rows, np.int64)  # of Asked
        self.prompt_length = np.zeros(rows, np.int64)
        self.num_logprobs = np.full(rows, -1, np.int64)
        self.min_tokens, self.decay_start = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.decay_factor = np.ones(rows)
        self.num_biases, self.deepest_bias = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.stops, self.ends = TokenLists(rows, vocab), TokenLists(rows, vocab)
        self.biases = Words(rows, upload)
        self.masks, self.first_masks = (Masks(rows, vocab, upload) for _ in range(2))

    def begin(self, begins: np.ndarray, stop_tokens: np.ndarray, words: np.ndarray) -> None:
        """begins [B] of ROW; stop_tokens, words: their stop tokens and other words, one row's after another's."""
        rows = begins["row"]
        top_k = begins["top_k"].astype(np.int64)
        top_k = np.where((top_k <= 0) | (top_k > self._vocab), self._vocab, top_k)
        for name in ("prompt_length", "num_logprobs", "min_tokens", "decay_start", "decay_factor", "num_biases"):
            getattr(self, name)[rows] = begins[name]
        self.stops.begin(rows, begins["num_stops"], stop_tokens)
        self._asked[rows] = _asked(begins)
        if len(words):
            self._begin_words(begins, words)

        where = self._upload(rows)
        not_penalized = np.where(begins["input_penalty"], 0, begins["prompt_length"])
        integers = (top_k, begins["seed"].view(np.int64), not_penalized.astype(np.int64))
        self._floats.index_copy_(1, where, self._upload(np.stack([begins[name] for name in FLOATS])))
        self._integers.index_copy_(1, where, self._upload(np.stack(integers)))

    def _begin_words(self, begins: np.ndarray, words: np.ndarray) -> None:
        """Of those rows that have any; nobody asks for what the others had before."""
        counts = np.stack([begins[name] for name in _OF_WORDS], axis=1)
        having = counts.any(axis=1)
        begins, counts = begins[having], counts[having]
        rows = begins["row"]
        runs = np.split(words, np.cumsum(counts)[:-1])
        biases, ends, masks, first_masks = (runs[kind :: len(_OF_WORDS)] for kind in range(len(_OF_WORDS)))
        self.biases.begin(rows, biases)
        self.deepest_bias[rows] = [
            run[3 : WORDS_OF_BIAS * count : WORDS_OF_BIAS].max(initial=0)
            for run, count in zip(biases, begins["num_biases"].tolist(), strict=True)
        ]
        self.ends.begin(rows, begins["num_ends"], np.concatenate(ends))
        for kept, of_each in ((self.masks, masks), (self.first_masks, first_masks)):
            masked = [i for i, mask in enumerate(of_each) if len(mask)]
            if masked:
                kept.begin(rows[masked], [of_each[i] for i in masked])

    def asked(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What each of these rows asks for where it has so many tokens: [n] of Asked."""
        asked = self._asked[rows]
        if not int(np.bitwise_or.reduce(asked)) & _BY_LENGTH:
            return asked
        output = lengths - self.prompt_length[rows]
        asked[output >= self.min_tokens[rows]] &= ~Asked.MIN_TOKENS
        asked[output <= self.decay_start[rows]] &= ~Asked.HASTENING
        asked[output > 0] &= ~Asked.FIRST_MASK
        return asked

    def choose(self, rows: Tensor) -> Chosen:
        """rows [n] int64, on the device."""
        count = len(rows)
        padded = F.pad(rows, (0, -count % _ALIGN))
        floats, integers = (all_rows.index_select(1, padded) for all_rows in (self._floats, self._integers))
        return Chosen(*floats[:, :count].unbind(), *integers[:, :count].unbind())


def _asked(begins: np.ndarray) -> np.ndarray:
    """[B] of Asked, whatever the length."""
    is_random = begins["temperature"] > 0
    penalties = (begins["repetition_penalty"] - 1, begins["presence_penalty"], begins["frequency_penalty"])
    asks = {
        Asked.DRAW: is_random,
        Asked.LOGPROBS: begins["num_logprobs"] >= 0,
        Asked.PENALTIES: np.any(penalties, axis=0),
        Asked.HASTENING: begins["num_ends"] > 0,
        Asked.BIASES: begins["num_biases"] > 0,
        Asked.MIN_TOKENS: begins["min_tokens"] > 0,
        Asked.MASK: begins["num_mask_words"] > 0,
        Asked.FIRST_MASK: begins["num_first_mask_words"] > 0,
        # Of one token all that counts is which is likeliest.
        Asked.TYPICAL: is_random & (begins["typical_p"] > 0) & (begins["typical_p"] < 1),
    }
    return sum((int(what) * asks_it for what, asks_it in asks.items()), np.zeros(len(begins), np.int64))
