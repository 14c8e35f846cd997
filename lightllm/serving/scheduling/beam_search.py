"""Beam search over what the scheduler has computed: which continuations of which beams go on, and which are done.

A round takes each beam's likeliest next tokens. Of all continuations the best `width` that do not end go on; what ends
among the best `width` is a hypothesis, whose score is its logprob by length ** length_penalty. The search is over when
no beam can become better than the worst hypothesis; early_stopping says how that is judged. In groups, each searches by
itself, and what earlier ones have chosen in a round costs later ones `diversity_penalty` each.

The rules, and so the sequences, are those of transformers' generate. Source of groups: arXiv:1610.02424.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightllm.base.beams import BeamOptions

MOST_CANDIDATES = 64  # of one beam


class Candidates(NamedTuple):
    """The likeliest next tokens of a beam, likeliest first, and their logprobs: [m], [m]."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]


class Place(NamedTuple):
    """A token that was chosen, where others could have been."""

    token: int
    logprob: float
    candidates: Candidates


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A continuation: its last place, and the hypothesis without it."""

    score: float = 0.0
    last: Place | None = None
    before: "Hypothesis | None" = None

    def places(self) -> list[Place]:
        """First to last."""
        found, one = [], self
        while one.last is not None and one.before is not None:
            found.append(one.last)
            one = one.before
        return found[::-1]


class Step(NamedTuple):
    """A beam's next token, and which beam it continues."""

    parent: int
    token: int


@dataclass(slots=True)
class _Group:
    """`running`: its beams, best first."""

    width: int
    running: list[Hypothesis]
    done: list[Hypothesis] = field(default_factory=list)  # best first, at most `width`
    is_over: bool = False


class BeamSearch:
    """One prompt's. `num_candidates`: how many of a beam's likeliest tokens a round needs to know."""

    def __init__(self, options: BeamOptions, *, max_tokens: int, min_tokens: int, stops: frozenset[int]):
        self._options, self._max_tokens, self._min_tokens, self._stops = options, max_tokens, min_tokens, stops
        width = options.width // options.groups
        self._groups = [_Group(width, [Hypothesis()]) for _ in range(options.groups)]
        # So many continuations of a group are looked at that even if all that can end do, enough go on.
        self._looked_at = max(2, 1 + len(stops)) * width
        self.num_candidates = num_candidates(options, num_stops=len(stops), min_tokens=min_tokens)
        self.num_tokens = 0  # of each beam

    def advance(self, candidates: list[Candidates]) -> list[Step]:
        """Takes what may follow each beam. Returns the next beams, none if the search is over.

        All groups begin with the same one.
        """
        self.num_tokens += 1
        first, steps = 0, list[Step]()
        chosen: Counter[int] = Counter()
        for group in self._groups:
            if group.is_over:
                continue
            is_first_round = self.num_tokens == 1
            beams = len(group.running)
            mine = self._advance(group, candidates[:1] if is_first_round else candidates[first : first + beams], chosen)
            steps += mine if is_first_round else [Step(first + parent, token) for parent, token in mine]
            first += beams
        return steps

    def best(self, count: int) -> list[Hypothesis]:
        """The best hypotheses of all groups, best first."""
        everything = [hypothesis for group in self._groups for hypothesis in group.done]
        return sorted(everything, key=lambda hypothesis: -hypothesis.score)[:count]

    def ends(self, hypothesis: Hypothesis) -> bool:
        """Whether a stop token ended it."""
        return hypothesis.last is not None and hypothesis.last.token in self._stops

    def _advance(self, group: _Group, candidates: list[Candidates], chosen: Counter[int]) -> list[Step]:
        looked_at = self._continuations(group, candidates, chosen)
        going = [(parent, one) for parent, one in looked_at if not self.ends(one)][: group.width]
        chosen.update(one.last.token for _, one in going if one.last is not None)
        is_last = self.num_tokens >= self._max_tokens
        self._finish(group, [one for _, one in looked_at[: group.width] if is_last or self.ends(one)])
        if is_last:
            going = []
        group.is_over = not going or self._is_over(group, going[0][1].score)
        if group.is_over:
            return []
        group.running = [hypothesis for _, hypothesis in going]
        return [Step(parent, one.last.token) for parent, one in going if one.last is not None]

    def _continuations(
        self, group: _Group, candidates: list[Candidates], chosen: Counter[int]
    ) -> list[tuple[int, Hypothesis]]:
        """The best continuations of a group's beams, best first, and of which beam each is."""
        found: list[tuple[int, Hypothesis]] = []
        for at, (running, mine) in enumerate(zip(group.running, candidates, strict=True)):
            for token, logprob in zip(mine.tokens.tolist(), mine.logprobs, strict=True):
                if token in self._stops and self.num_tokens <= self._min_tokens:
                    continue
                # In float32, as others do it, so that the same of two nearly equal ones is better.
                penalty = np.float32(self._options.diversity_penalty * chosen[token])
                score = float(np.float32(running.score) + (logprob - penalty))
                found.append((at, Hypothesis(score, Place(token, float(logprob), mine), running)))
        return sorted(found, key=lambda one: -one[1].score)[: self._looked_at]

    def _finish(self, group: _Group, ending: list[Hypothesis]) -> None:
        """Keeps the best of what has ended, by score for its length."""
        if self._options.early_stopping is True and len(group.done) == group.width:
            return
        scale = self.num_tokens**self._options.length_penalty
        scored = [Hypothesis(one.score / scale, one.last, one.before) for one in ending]
        group.done = sorted([*group.done, *scored], key=lambda one: -one.score)[: group.width]

    def _is_over(self, group: _Group, best_running: float) -> bool:
        if len(group.done) < group.width:
            return False
        if self._options.early_stopping is True:
            return True
        optimistic = self._options.early_stopping == "never" and self._options.length_penalty > 0
        length = self._max_tokens if optimistic else self.num_tokens
        return best_running / length**self._options.length_penalty <= group.done[-1].score


def why_not(options: BeamOptions, *, num_stops: int, min_tokens: int) -> str | None:
    """Why such a search is not done."""
    if (needed := num_candidates(options, num_stops=num_stops, min_tokens=min_tokens)) <= MOST_CANDIDATES:
        return None
    return (
        f"num_beams={options.width} with {num_stops} eos and stop tokens takes {needed} candidates for each token, "
        f"at most {MOST_CANDIDATES} are looked at; ask for fewer beams or stop tokens"
    )


def num_candidates(options: BeamOptions, *, num_stops: int, min_tokens: int) -> int:
    """As BeamSearch.num_candidates: with these no other token could come among those that are looked at."""
    width = options.width // options.groups
    forbidden, penalized = num_stops if min_tokens else 0, options.width - width
    return max(2, 1 + num_stops) * width + forbidden + penalized
