"""What a parser finds in an answer, in order. Pieces of one text that come together are one event."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(slots=True, frozen=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(slots=True, frozen=True)
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclass(slots=True, frozen=True)
class CallBegin:
    """A call of a tool. `id` is the model's own, where its format has one."""

    index: int
    name: str
    id: str | None = None


@dataclass(slots=True, frozen=True)
class CallArguments:
    """The next piece of a call's arguments, which together are JSON unless the model wrote it wrongly."""

    index: int
    text: str


Event = Content | Reasoning | CallBegin | CallArguments


def joined(events: Iterable[Event]) -> list[Event]:
    """The events with neighbours of the same text made one."""
    result: list[Event] = []
    for (kind, index), group in groupby(events, _text_of):
        if kind is CallBegin:
            result += group
        else:
            text = "".join(event.text for event in group if not isinstance(event, CallBegin))
            result.append(CallArguments(index, text) if kind is CallArguments else kind(text))
    return result


def _text_of(event: Event) -> tuple[type, int]:
    return type(event), event.index if isinstance(event, CallBegin | CallArguments) else -1
