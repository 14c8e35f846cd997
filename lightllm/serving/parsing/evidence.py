"""What of a checkpoint shows that its model writes a format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Traces:
    """What is looked at: the texts of all chat templates as one, and the names of added tokens."""

    template: str
    tokens: frozenset[str]


@dataclass(frozen=True)
class Evidence:
    """Any of `template` is proof if all its strings occur in the chat template, any of `tokens` if it is a token."""

    template: tuple[tuple[str, ...], ...] = ()
    tokens: tuple[str, ...] = ()

    def found_in(self, traces: Traces) -> str | None:
        """What proves it, in words."""
        for strings in self.template:
            if all(string in traces.template for string in strings):
                return f"the chat template has {' and '.join(strings)}"
        for token in self.tokens:
            if token in traces.tokens:
                return f"the vocabulary has {token}"
        return None
