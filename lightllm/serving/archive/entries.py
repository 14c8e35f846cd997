"""Stored responses: bounded in number, bytes and age. Nothing here knows what is in them."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Entry:
    """A response. While it `is_open` it grows; `news` is set, and replaced, when it has."""

    id: str
    caller: int  # whose it is; nobody else sees it
    response: bytes  # JSON
    items: bytes  # JSON: the list of items that it answers
    events: list[bytes]  # of its stream: as many as sequence numbers
    is_open: bool
    stored: float  # when it was stored or ended
    labels: dict[str, str] = field(default_factory=dict)  # by which it is found
    stop: Callable[[], None] | None = None  # asks whoever produces it to end
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.items) + sum(map(len, self.events))

    def tell(self) -> None:
        """Wakes all that wait for news."""
        self.news.set()
        self.news = asyncio.Event()


class Archive:
    """Entries by id. The oldest that have ended make room for new ones; times are seconds of any clock."""

    def __init__(self, *, most: int, most_bytes: int, keep_s: float):
        self._most, self._most_bytes, self._keep_s = most, most_bytes, keep_s
        self._open: dict[str, Entry] = {}
        self._ended: OrderedDict[str, Entry] = OrderedDict()  # oldest first
        self.num_bytes = 0  # of those that have ended

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def put(self, entry: Entry, now: float) -> None:
        if entry.is_open:
            self._open[entry.id] = entry
        else:
            self._keep(entry, now)

    def end(self, entry: Entry, response: bytes, events: list[bytes], now: float) -> None:
        """The last of an open entry."""
        entry.response, entry.is_open, entry.stop = response, False, None
        entry.events += events
        if self._open.pop(entry.id, None) is not None:  # else it was deleted meanwhile
            self._keep(entry, now)
        entry.tell()

    def _keep(self, entry: Entry, now: float) -> None:
        entry.stored = now
        self._ended[entry.id] = entry
        self.num_bytes += entry.num_bytes
        self._forget_old(now)

    def get(self, id: str, caller: int, now: float) -> Entry | None:
        """The entry of this id, if it is this caller's."""
        self._forget_old(now)
        entry = self._open.get(id) or self._ended.get(id)
        return entry if entry is not None and entry.caller == caller else None

    def find(self, caller: int, labels: dict[str, str], now: float) -> list[Entry]:
        """This caller's entries that have ended and have these labels, the oldest first."""
        self._forget_old(now)
        mine = (entry for entry in self._ended.values() if entry.caller == caller)
        return [entry for entry in mine if labels.items() <= entry.labels.items()]

    def relabel(self, entry: Entry, response: bytes, labels: dict[str, str], now: float) -> None:
        """Puts another response in the place of one that has ended."""
        self.num_bytes += len(response) - len(entry.response)
        entry.response, entry.labels = response, labels
        self._forget_old(now)

    def delete(self, entry: Entry) -> None:
        """Forgets an entry; one that is open is asked to end."""
        if self._open.pop(entry.id, None) is not None and entry.stop is not None:
            entry.stop()
        if self._ended.pop(entry.id, None) is not None:
            self.num_bytes -= entry.num_bytes

    def _forget_old(self, now: float) -> None:
        while self._ended and (
            len(self) > self._most
            or self.num_bytes > self._most_bytes
            or next(iter(self._ended.values())).stored + self._keep_s <= now
        ):
            _, oldest = self._ended.popitem(last=False)
            self.num_bytes -= oldest.num_bytes
