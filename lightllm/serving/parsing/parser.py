"""The parser of one answer: pieces of its text in, events out."""

from collections.abc import Callable

from lightllm.serving.parsing.events import Event
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import Markers, Steps

Part = Callable[[Output], Steps[None]]
_NOTHING = Markers([])


class AnswerParser:
    """`parts` read the answer one after the other, each from where the one before stopped; the rest is content."""

    def __init__(self, output: Output, parts: list[Part]):
        self.output = output
        self._steps = self._read(parts)
        next(self._steps, None)

    def _read(self, parts: list[Part]) -> Steps[None]:
        for part in parts:
            yield from part(self.output)
        yield from self.output.reader.until(_NOTHING, self.output.content)

    def feed(self, piece: str) -> list[Event]:
        """What is certain after this piece and was not before."""
        self.output.reader.add(piece)
        next(self._steps, None)
        return self.output.take_events()

    def finish(self) -> list[Event]:
        """What is left when no piece follows."""
        self.output.reader.complete()
        for _ in self._steps:
            raise AssertionError("nothing waits for text that does not come")
        self.output.end_content()
        return self.output.take_events()
