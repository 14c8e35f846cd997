"""Text that comes in pieces, read as if it were there as a whole.

A grammar is a generator that asks a Reader for text; where there is not enough yet, the generator waits. What each of
the Reader's methods finds depends on the whole text alone, never on where pieces were cut, and so does what grammars
built from them find.
"""

import re
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

Found = TypeVar("Found")
Steps = Generator[None, None, Found]  # each step waits for more text
Sink = Callable[[str], None]

SPACE = " \t\r\n"
_SPACES = re.compile(f"[{SPACE}]*")


class Markers:
    """Strings to look for. Of several at one place the longest counts."""

    def __init__(self, strings: Iterable[str]):
        longest_first = sorted(set(strings), key=len, reverse=True)
        self.strings = frozenset(longest_first)
        self.beginnings = frozenset(a for a in longest_first for b in longest_first if a != b and b.startswith(a))
        nothing = "(?!)"
        self.whole = re.compile("|".join(map(re.escape, longest_first)) or nothing)
        # Finds also what is only the beginning of a marker, at the end of the text.
        self.partial = re.compile("|".join(map(_or_beginning, longest_first)) or nothing)


def _or_beginning(string: str) -> str:
    """A pattern: `string`, or as much of it as the text has before it ends."""
    pattern = re.escape(string[-1])
    for character in reversed(string[:-1]):
        pattern = rf"{re.escape(character)}(?:\Z|{pattern})"
    return pattern


class Reader:
    """The text so far, where the grammar is in it, and a mark: what comes before the mark has been made use of."""

    def __init__(self) -> None:
        self._text = ""
        self._at = self._mark = 0
        self._num_dropped = 0  # characters before _text
        self._is_complete = False

    def add(self, piece: str) -> None:
        self._text = self._text[self._mark :] + piece
        self._num_dropped += self._mark
        self._at -= self._mark
        self._mark = 0

    def complete(self) -> None:
        """No more text comes: from now on nothing waits."""
        self._is_complete = True

    @property
    def position(self) -> int:
        """Characters read so far."""
        return self._num_dropped + self._at

    # The mark

    @property
    def used(self) -> int:
        """Characters before the mark."""
        return self._num_dropped + self._mark

    def set_mark(self) -> None:
        self._mark = self._at

    def since_mark(self) -> str:
        """What was read and not yet made use of."""
        return self._text[self._mark : self._at]

    def rewind(self) -> None:
        """Reads from the mark once more."""
        self._at = self._mark

    # What grammars are made of

    def until(self, markers: Markers, sink: Sink) -> Steps[str]:
        """Reads up to the next marker and past it; `sink` gets the text before it, as it comes.

        Returns the marker, '' where the text ends without one.
        """
        while True:
            pattern = markers.whole if self._is_complete else markers.partial
            match = pattern.search(self._text, self._at)
            before = self._text[self._at : match.start() if match else None]
            self._at += len(before)
            if before:
                sink(before)
            if match and self._is_certain(match, markers):
                self._at = match.end()
                return match[0]
            if self._is_complete:
                return ""
            yield

    def _is_certain(self, match: re.Match[str], markers: Markers) -> bool:
        """Whether what was found is a marker, and no longer one can come of it."""
        if self._is_complete or match.end() < len(self._text):
            return True
        return match[0] in markers.strings and match[0] not in markers.beginnings

    def skip(self, *strings: str) -> Steps[str]:
        """Reads the first of these strings that the text goes on with, and returns it; '' if there is none."""
        longest = max(map(len, strings))
        while True:
            rest = self._text[self._at : self._at + longest]
            if self._is_complete or not any(s.startswith(rest) and s != rest for s in strings):
                break
            yield
        found = next((string for string in strings if rest.startswith(string)), "")
        self._at += len(found)
        return found

    def run(self, pattern: re.Pattern[str]) -> Steps[str]:
        """Reads as many characters as `pattern`, a repeated class of characters, matches."""
        parts = []
        while True:
            match = pattern.match(self._text, self._at)
            assert match is not None, "a repeated class matches nothing at least"
            parts.append(match[0])
            self._at = match.end()
            if self._at < len(self._text) or self._is_complete:
                return "".join(parts)
            yield

    def space(self) -> Steps[str]:
        """Reads white space."""
        return self.run(_SPACES)

    def peek(self) -> Steps[str]:
        """The next character, '' at the end. It is not read."""
        while self._at == len(self._text) and not self._is_complete:
            yield
        return self._text[self._at : self._at + 1]

    def take(self) -> Steps[str]:
        """Reads one character, '' at the end."""
        character = yield from self.peek()
        self._at += len(character)
        return character

    def back(self, count: int) -> None:
        """Unreads the last `count` characters, which must lie behind the mark."""
        assert self._at - count >= self._mark, "what was made use of is gone"
        self._at -= count
