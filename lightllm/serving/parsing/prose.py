"""Text for people, without the white space that only sets it apart from tags and calls."""

from lightllm.serving.parsing.reader import SPACE, Sink


class Prose:
    """Passes text on to `sink`, unchanged where nothing interrupts it.

    White space next to an interruption is dropped at both ends of the whole text; between two texts that of the first
    remains, or else that of the second.
    """

    def __init__(self, sink: Sink):
        self._sink = sink
        self._before = self._after = ""  # white space held back: before an interruption, and after it
        self._is_interrupted = False  # and nothing but white space has come since
        self._has_text = False

    def write(self, text: str) -> None:
        stripped = text.lstrip(SPACE)
        space = text[: len(text) - len(stripped)]
        if self._is_interrupted:
            self._after += space
        else:
            self._before += space
        if not stripped:
            return
        shown = stripped.rstrip(SPACE)
        self._sink(self._space() + shown)
        self._before, self._after = stripped[len(shown) :], ""
        self._has_text, self._is_interrupted = True, False

    def _space(self) -> str:
        """What of the white space held back goes before the text that comes now."""
        if not self._is_interrupted:
            return self._before
        return (self._before or self._after) if self._has_text else ""

    def interrupt(self) -> None:
        """Something that is no text stands here."""
        self._is_interrupted = True

    def end(self) -> None:
        """No more text comes."""
        if not self._is_interrupted and self._before:
            self._sink(self._before)
