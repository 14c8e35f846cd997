"""Sampling parameters of all rows: on the device for computing, on the host for knowing what need not be computed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
INTEGERS = ("top_k", "seed", "prompt_length")
_ALIGN = 4  # numbers of 4 bytes in 16 bytes
Upload = Callable[[np.ndarray], Tensor]  # a host array to the device; integers become int64


@dataclass(frozen=True, slots=True)
class Chosen:
    """Parameters of some rows, on the device: each [rows], float32 or int64, without gaps, from a multiple of 16 bytes
    on, so that kernels are compiled for one kind of address only."""

    temperature: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    top_k: Tensor  # vocab where it is off
    seed: Tensor
    prompt_length: Tensor


class Parameters:
    """Set where a row begins. The public arrays are the host's, by row."""

    def __init__(self, rows: int, vocab: int, device: torch.device, upload: Upload):
        self._vocab, self._upload = vocab, upload
        self._floats = torch.zeros(len(FLOATS), rows, device=device)
        self._integers = torch.zeros(len(INTEGERS), rows, dtype=torch.int64, device=device)
        self.prompt_length = np.zeros(rows, np.int64)
        self.num_logprobs = np.full(rows, -1, np.int64)
        self.min_tokens = np.zeros(rows, np.int64)
        self.stops = np.full((rows, 1), -1, np.int64)  # [rows, most stop tokens of a row], -1: none
        self.is_random = np.zeros(rows, bool)
        self.is_penalized = np.zeros(rows, bool)

    def begin(self, begins: np.ndarray, stop_tokens: np.ndarray) -> None:
        """begins [B] of ROW; stop_tokens: their stop tokens, one row's after another's."""
        rows = begins["row"]
        top_k = begins["top_k"].astype(np.int64)
        top_k = np.where((top_k <= 0) | (top_k > self._vocab), self._vocab, top_k)
        self.prompt_length[rows] = begins["prompt_length"]
        self.num_logprobs[rows] = begins["num_logprobs"]
        self.min_tokens[rows] = begins["min_tokens"]
        self._set_stops(rows, begins["num_stops"], stop_tokens)
        self.is_random[rows] = begins["temperature"] > 0
        penalties = (begins["repetition_penalty"] - 1, begins["presence_penalty"], begins["frequency_penalty"])
        self.is_penalized[rows] = np.any(penalties, axis=0)

        where = self._upload(rows)
        integers = (top_k, begins["seed"].view(np.int64), begins["prompt_length"].astype(np.int64))
        self._floats.index_copy_(1, where, self._upload(np.stack([begins[name] for name in FLOATS])))
        self._integers.index_copy_(1, where, self._upload(np.stack(integers)))

    def _set_stops(self, rows: np.ndarray, counts: np.ndarray, tokens: np.ndarray) -> None:
        widest = counts.max(initial=0)
        if widest > self.stops.shape[1]:
            self.stops = np.pad(self.stops, ((0, 0), (0, widest - self.stops.shape[1])), constant_values=-1)
        self.stops[rows] = -1
        column = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.stops[np.repeat(rows, counts), column] = np.where(tokens < self._vocab, tokens, -1)

    def choose(self, rows: Tensor) -> Chosen:
        """rows [n] int64, on the device."""
        count = len(rows)
        padded = F.pad(rows, (0, -count % _ALIGN))
        floats, integers = (all_rows.index_select(1, padded) for all_rows in (self._floats, self._integers))
        return Chosen(*floats[:, :count].unbind(), *integers[:, :count].unbind())
