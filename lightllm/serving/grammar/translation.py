"""A grammar on its way into an engine's own form: how its parts are put together, and what no engine can enforce."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from lightllm.base import grammar as parts
from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError

Form = TypeVar("Form")  # what an engine takes for a part: it may stand wherever a part may
Times = Literal["?", "*", "+"]


class Translation(ABC, Generic[Form]):
    """Of one grammar. What is abstract here is what engines write differently."""

    def __init__(self, special_tokens: Mapping[str, int]):
        names = sorted(map(re.escape, special_tokens), key=len, reverse=True)
        self._special_tokens, self._special = special_tokens, re.compile("(" + "|".join(names or ["(?!)"]) + ")")

    def of(self, grammar: Grammar) -> Form:
        """Raises UnenforceableError."""
        return _KINDS[type(grammar)](self, grammar)

    def literal(self, text: str) -> Form:
        """Text in which names of special tokens stand for these."""
        pieces = [piece for piece in self._special.split(text) if piece]
        return self.in_order(
            [
                self.token(self._special_tokens[piece]) if piece in self._special_tokens else self.letters(piece)
                for piece in pieces
            ]
        )

    # ---- what engines write differently ----

    @abstractmethod
    def token(self, token: int) -> Form:
        """A special token."""

    @abstractmethod
    def letters(self, text: str) -> Form:
        """This text, letter by letter."""

    @abstractmethod
    def json_schema(self, part: parts.JsonSchema) -> Form: ...

    @abstractmethod
    def regex(self, part: parts.Regex) -> Form: ...

    @abstractmethod
    def context_free(self, part: parts.ContextFree) -> Form: ...

    @abstractmethod
    def text_without(self, ends: Collection[str]) -> Form:
        """Any text in which none of these begins."""

    @abstractmethod
    def text_up_to(self, then: Mapping[str, Form]) -> Form:
        """Any text up to the first of these, that one (a special token or its letters), and what comes after it."""

    @abstractmethod
    def in_order(self, forms: Sequence[Form]) -> Form:
        """One after another; the empty text if there are none."""

    @abstractmethod
    def one_of(self, forms: Sequence[Form]) -> Form: ...

    @abstractmethod
    def repeated(self, form: Form, times: Times) -> Form: ...

    # ---- each kind of part ----

    def _sequence(self, part: parts.Sequence) -> Form:
        if any(isinstance(element, parts.AnyText) for element in part.elements[:-1]):
            raise UnenforceableError("any_text is followed by other elements; put it last, or into a tag")
        return self.in_order([self.of(element) for element in part.elements])

    def _either(self, part: parts.Either) -> Form:
        if not part.elements:
            raise UnenforceableError("`or` has no elements: nothing satisfies it")
        return self.one_of([self.of(element) for element in part.elements])

    def _tag(self, part: parts.Tag, *, without: str = "") -> Form:
        """`without`: how it begins, where that was read already."""
        begin = self.literal(part.begin.removeprefix(without))
        if isinstance(part.content, parts.AnyText):
            return self.in_order([begin, self._checked_text_up_to({part.end: self.in_order([])})])
        return self.in_order([begin, self.of(part.content), self.literal(part.end)])

    def _triggered_tags(self, part: parts.TriggeredTags) -> Form:
        begun: dict[str, Form] = {}
        for trigger in part.triggers:
            tags = [self._tag(tag, without=trigger) for tag in part.tags if tag.begin.startswith(trigger)]
            if not tags or not trigger:
                raise UnenforceableError(f"no tag begins with the trigger {trigger!r}")
            begun[trigger] = self.one_of(tags)
        if strays := [tag.begin for tag in part.tags if not tag.begin.startswith(tuple(part.triggers))]:
            raise UnenforceableError(f"the tag {strays[0]!r} begins with none of the triggers")
        if not begun:
            raise UnenforceableError("triggered_tags has no triggers")
        call, text = self._checked_text_up_to(begun), self.text_without(begun)
        if part.stop_after_first:
            return call if part.at_least_one else self.one_of([call, text])
        return self.in_order([self.repeated(call, "+" if part.at_least_one else "*"), text])

    def _tags_with_separator(self, part: parts.TagsWithSeparator) -> Form:
        if not part.tags:
            raise UnenforceableError("tags_with_separator has no tags")
        one = self.one_of([self._tag(tag) for tag in part.tags])
        more = self.repeated(self.in_order([self.literal(part.separator), one]), "*")
        every = one if part.stop_after_first else self.in_order([one, more])
        return every if part.at_least_one else self.repeated(every, "?")

    def _checked_text_up_to(self, then: Mapping[str, Form]) -> Form:
        for end in then:
            if not end or (self._special.search(end) and not self._special.fullmatch(end)):
                raise UnenforceableError(
                    f"free text ends with {end!r}; it must be one special token, or text without any"
                )
        return self.text_up_to(then)


_KINDS: dict[type[parts.Part], Callable[[Translation[Any], Any], Any]] = {
    parts.ConstString: lambda to, part: to.literal(part.value),
    parts.JsonSchema: lambda to, part: to.json_schema(part),
    parts.Regex: lambda to, part: to.regex(part),
    parts.ContextFree: lambda to, part: to.context_free(part),
    parts.AnyText: lambda to, part: to.text_without([]),
    parts.Sequence: Translation._sequence,
    parts.Either: Translation._either,
    parts.Optional: lambda to, part: to.repeated(to.of(part.content), "?"),
    parts.Star: lambda to, part: to.repeated(to.of(part.content), "*"),
    parts.Plus: lambda to, part: to.repeated(to.of(part.content), "+"),
    parts.Tag: Translation._tag,
    parts.TriggeredTags: Translation._triggered_tags,
    parts.TagsWithSeparator: Translation._tags_with_separator,
}
