"""Where grammars put what they find: events for the client, and the mark up to which text was made use of."""

from collections.abc import Mapping
from typing import Any

from lightllm.serving.parsing.events import CallArguments, CallBegin, Content, Event, Reasoning, joined
from lightllm.serving.parsing.prose import Prose
from lightllm.serving.parsing.reader import SPACE, Reader


class Output:
    """One answer's. `tools` are the JSON schemas of parameters by name of the tools offered; None: no calls wanted.

    With `most_calls` an answer ends with its last one: `end` is then where, in characters, something else would follow.
    """

    def __init__(
        self,
        *,
        tools: Mapping[str, Mapping[str, Any]] | None,
        separates_reasoning: bool = True,
        only_offered: bool = False,
        most_calls: int | None = None,
    ):
        """Without `separates_reasoning` reasoning is content, tags and all, with `only_offered` so are calls of tools
        that were not offered."""
        self.reader = Reader()
        self.tools = tools
        self.only_offered = only_offered
        self._separates_reasoning = separates_reasoning
        self.num_calls = 0
        self.end: int | None = None
        self.reasoning_spans: list[tuple[int, int]] = []  # characters from, to; tags included
        self.reasoning_start = -1  # of the span that has not ended
        self._most_calls = most_calls
        self._events: list[Event] = []
        self._content = Prose(lambda text: self._events.append(Content(text)))
        self._reasoning = Prose(lambda text: self._events.append(Reasoning(text)))

    def take_events(self) -> list[Event]:
        """What was found since the last time; pieces of one text are one event."""
        events, self._events = self._events, []
        return joined(events) if len(events) > 1 else events

    # Text

    def content(self, text: str) -> None:
        """`text` was read last."""
        self._follow(text)
        self.reader.set_mark()
        if self.end is None:
            self._content.write(text)

    def interrupt(self) -> None:
        """What was just read is a mark between texts."""
        self.reader.set_mark()
        self._content.interrupt()

    def paragraph(self) -> None:
        """What follows does not go on with the text before."""
        for prose in (self._content, self._reasoning):
            prose.write("\n\n")
            prose.interrupt()

    def end_content(self) -> None:
        """No more text comes."""
        self._content.end()

    def reasoning(self, text: str) -> None:
        """Likewise."""
        self._follow(text)
        self.reader.set_mark()
        if self.end is None:
            (self._reasoning if self._separates_reasoning else self._content).write(text)

    def begin_reasoning(self, start: int) -> None:
        """What was read since position `start` opens a text of reasoning."""
        self._pass_tag()
        self.reasoning_start = start
        self._reasoning.interrupt()

    def end_reasoning(self) -> None:
        """It ends with what was just read; what follows is content."""
        self._pass_tag()
        self.reasoning_spans.append((self.reasoning_start, self.reader.position))
        self.reasoning_start = -1

    def _pass_tag(self) -> None:
        if self._separates_reasoning:
            self.interrupt()
        else:
            self.content(self.reader.since_mark())

    # Calls

    def begin_call(self, name: str, id: str | None = None) -> None:
        """From here on this is a call, whatever may be wrong with its arguments."""
        self._follow(self.reader.since_mark())
        self.interrupt()
        if self.end is None:
            self._events.append(CallBegin(self.num_calls, name, id))
            self.num_calls += 1

    def arguments(self, text: str) -> None:
        """The next piece of the arguments of the call begun last."""
        self.reader.set_mark()
        if text and self.end is None:
            self._events.append(CallArguments(self.num_calls - 1, text))

    def go_on(self, start: int) -> None:
        """From position `start` on there is more than what was read before."""
        if self.end is None and self.num_calls == self._most_calls:
            self.end = start

    def _follow(self, text: str) -> None:
        """The same where `text`, which was read last, is more than space."""
        if said := text.lstrip(SPACE):
            self.go_on(self.reader.position - len(said))
