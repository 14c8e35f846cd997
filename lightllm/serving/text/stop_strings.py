"""Strings that end an answer, found in text that comes in pieces, wherever the pieces are cut."""

from collections.abc import Sequence


class StopStrings:
    """Searches one answer. The match that is complete first wins; of those complete at once, the longest."""

    def __init__(self, strings: Sequence[str], *, include_match: bool):
        self._strings = strings
        self._include_match = include_match
        self._held = ""  # the end of the text, as far as it may be the beginning of a stop string
        self.matched = -1  # which string was found

    def feed(self, piece: str, *, may_match: bool) -> str:
        """Text that is certain to be no part of a stop string; up to the match, if `piece` completes one.

        Matches that end in a piece with `may_match` False do not count.
        """
        text = self._held + piece
        if may_match and piece and (found := self._search(text)):
            self.matched, start, end = found
            return text[: end if self._include_match else start]
        held = self._longest_beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What is held, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _search(self, text: str) -> tuple[int, int, int] | None:
        """(which, start, end) of the first match that ends in the new piece."""
        found = []
        for which, string in enumerate(self._strings):
            start = text.find(string, max(0, len(self._held) - len(string) + 1))
            if start >= 0:
                found.append((start + len(string), start, which))
        if not found:
            return None
        end, start, which = min(found)
        return which, start, end

    def _longest_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = 0
        for string in self._strings:
            for length in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:length]):
                    longest = length
                    break
        return longest
