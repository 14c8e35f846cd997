"""Plans written by hand: sequences and what they sample with, as a scheduler would put them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightllm.base.request_table import NO_TOKEN_WORDS, TokenWords
from lightllm.base.step import LAST_SAMPLED, ROW, StepPlan

NEUTRAL = {"top_p": 1.0, "repetition_penalty": 1.0, "num_logprobs": -1}


@dataclass
class Run:
    """What a sequence runs: tokens from position `start` on. slots: of positions `told`, told + 1, ... as new."""

    row: int
    start: int
    tokens: Sequence[int]
    slots: Sequence[int]
    samples: bool = True
    told: int | None = None  # `start` if not given
    begins: Mapping[str, Any] | None = None
    stop_tokens: Sequence[int] = field(default_factory=list)
    words: TokenWords = NO_TOKEN_WORDS


def plan(*sequences: Run, step: int = 0) -> StepPlan:
    """Sequences of one token are put first."""
    ordered = sorted(sequences, key=lambda one: len(one.tokens) > 1)
    beginning = [one for one in ordered if one.begins is not None]
    begins = np.zeros(len(beginning), ROW)
    for line, one in zip(begins, beginning, strict=True):
        values = {
            **NEUTRAL,
            "row": one.row,
            "num_stops": len(one.stop_tokens),
            **_counts(one.words),
            **(one.begins or {}),
        }
        for name, value in values.items():
            line[name] = value
    return StepPlan(
        step=step,
        rows=_array([one.row for one in ordered]),
        starts=_array([one.start for one in ordered]),
        counts=_array([len(one.tokens) for one in ordered]),
        samples=np.array([one.samples for one in ordered], bool),
        tokens=_array([token for one in ordered for token in one.tokens]),
        update_rows=_array([one.row for one in ordered]),
        update_starts=_array([one.start if one.told is None else one.told for one in ordered]),
        update_counts=_array([len(one.slots) for one in ordered]),
        update_slots=_array([slot for one in ordered for slot in one.slots]),
        begins=begins,
        stop_tokens=_array([token for one in beginning for token in one.stop_tokens]),
        words=np.frombuffer(b"".join(one.words.words for one in beginning), np.int32),
    )


def decodes(rows: Sequence[int], starts: Sequence[int], slots: Sequence[int], *, step: int = 0) -> StepPlan:
    """Every row runs the token it sampled last."""
    return plan(*(Run(*one[:2], [LAST_SAMPLED], [one[2]]) for one in zip(rows, starts, slots, strict=True)), step=step)


def _counts(words: TokenWords) -> dict[str, int]:
    return {name: getattr(words, name) for name in TokenWords.__struct_fields__ if name != "words"}


def _array(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int32)
