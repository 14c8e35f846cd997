"""What requests generate if nothing goes wrong: a function of their tokens and of how they sample, nothing else."""

from collections.abc import Sequence

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
