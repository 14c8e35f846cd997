"""What requests generate if nothing goes wrong: a function of their tokens and of how they sample, nothing else."""

from collections.abc import Sequence

import numpy as np

from lightllm.base.beams import BeamOptions
from lightllm.serving.scheduling.beam_search import BeamSearch, Candidates, Hypothesis
from tests.serving.scheduling import device

_PRIME = (1 << 61) - 1


def following(context: int, token: int) -> int:
    """Hash of the tokens that have the hash `context`, and this one. Of no tokens it is 0."""
    return (context * 1_000_003 + token + 1) % _PRIME


def score(context: int) -> float:
    """The invented logprob of the last of the tokens that have this hash, a number that float32 can say."""
    return -float(context % (1 << 20))


def part(context: int) -> int:
    """What the last of the tokens that have this hash adds to the pooled vector of a prompt."""
    return context % (1 << 10)


class Answer:
    """A request's tokens, prompt first, and for each the hash of all tokens up to it: what its slot has to hold.

    `output` is what its client gets. Tokens beyond it are what the rows of steps that came too late run.
    """

    def __init__(
        self, prompt: Sequence[int], *, max_tokens: int, min_tokens: int, stops: Sequence[int], variant: int,
        vocabulary: int, bans_stops: bool,
    ):  # fmt: skip
        self.prompt_length, self.max_tokens, self.min_tokens = len(prompt), max_tokens, min_tokens
        self.stops = frozenset(stops)
        self._variant, self._vocabulary, self._bans_stops = variant, vocabulary, bans_stops
        self.tokens: list[int] = []
        self.hashes: list[int] = []
        for token in prompt:
            self._add(token)
        self.is_stopped = False
        while not self.is_stopped and len(self.tokens) < self.prompt_length + max_tokens:
            self._sample()
            count = len(self.tokens) - self.prompt_length
            self.is_stopped = self.tokens[-1] in self.stops and count > min_tokens
        self.output = self.tokens[self.prompt_length :]

    @property
    def vector(self) -> tuple[float, float]:
        """Of a model that gives these: what the prompt's last token is, and what all of them add up to."""
        prompt = self.hashes[: self.prompt_length]
        return score(prompt[-1]), float(sum(map(part, prompt)))

    @property
    def steps_alone(self) -> int:
        """Steps it may take at most, from when it is the oldest."""
        return self.prompt_length + self.max_tokens + 4

    def logprobs(self, place: int, count: int) -> tuple[float, list[int], list[float]]:
        """Of the output token in this place, and of the `count` likeliest."""
        logprob, tokens, logprobs = device.logprobs(self.output[place], count)
        return logprob, tokens.tolist(), logprobs.tolist()

    def reach(self, length: int) -> None:
        """Makes sure that there are at least `length` tokens."""
        while len(self.tokens) < length:
            self._sample()

    def _add(self, token: int) -> None:
        self.tokens.append(token)
        self.hashes.append(following(self.hashes[-1] if self.hashes else 0, token))

    def _sample(self) -> None:
        context = self.hashes[-1]
        token = ((context ^ (context >> 29)) * (2 * self._variant + 0x9E3779B97F4A7C15) >> 40) % self._vocabulary
        if self._bans_stops and len(self.tokens) - self.prompt_length < self.min_tokens:
            while token in self.stops:
                token = (token + 1) % (self._vocabulary + len(self.stops))
        self._add(token)


class Search:
    """All that a beam search comes to if nothing goes wrong: `before` has the hash of each run of tokens that a beam
    knows at some time, and that of the run without its last token. `hypotheses`: what is found, best first."""

    def __init__(
        self, prompt: Sequence[int], options: BeamOptions, *, max_tokens: int, min_tokens: int, stops: frozenset[int],
        vocabulary: int, num_logprobs: int,
    ):  # fmt: skip
        self.width, self.before, last = options.width, {0: 0}, 0
        self._vocabulary = vocabulary
        for token in prompt:
            last = self._follow(last, token)
        search = BeamSearch(options, max_tokens=max_tokens, min_tokens=min_tokens, stops=stops)
        count = max(search.num_candidates, num_logprobs)
        assert count <= vocabulary, "there are so many tokens"
        beams = [last] * options.width
        while steps := search.advance([self.likeliest(beam, count) for beam in beams]):
            beams = [self._follow(beams[parent], token) for parent, token in steps]
        self.hypotheses = search.best(options.width)

    def likeliest(self, context: int, count: int) -> Candidates:
        """What may follow the tokens that have this hash. Needs a vocabulary that 7 does not divide."""
        first, logprob, places = context % self._vocabulary, -0.125 * (context % 8), np.arange(count)
        return Candidates(((first + 7 * places) % self._vocabulary).astype(np.int32), np.float32(logprob - places / 4))

    def _follow(self, context: int, token: int) -> int:
        after = following(context, token)
        self.before[after] = context
        return after


class BeamAnswer(Answer):
    """One of the hypotheses of a search. The first sample's stands for the search."""

    def __init__(self, prompt: Sequence[int], search: Search, hypothesis: Hypothesis, *, max_tokens: int, stops):
        super().__init__(prompt, max_tokens=0, min_tokens=0, stops=stops, variant=0, vocabulary=1, bans_stops=False)
        self.search, self.max_tokens, self._places = search, max_tokens, hypothesis.places()
        self.output = [place.token for place in self._places]
        self.tokens += self.output
        self.is_stopped = self.output[-1] in self.stops

    @property
    def steps_alone(self) -> int:
        """A beam runs in every second step at most, and steps may be too small for all beams."""
        return self.search.width * (self.prompt_length + 2 * self.max_tokens + 4)

    def logprobs(self, place: int, count: int) -> tuple[float, list[int], list[float]]:
        """As Answer.logprobs."""
        token, logprob, candidates = self._places[place]
        assert token in candidates.tokens, "what is chosen is one of the likeliest"
        return logprob, candidates.tokens[:count].tolist(), candidates.logprobs[:count].tolist()
