"""A priority queue from which anything may be taken: what every order of the queue stands on."""

import heapq
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar


class _Ordered(Protocol):
    @property
    def order(self) -> int:
        """Tells items apart, and decides between those with the same key."""
        ...


Item = TypeVar("Item", bound=_Ordered)
_FEW = 64


class KeyedHeap(Generic[Item]):
    """Items by key, the least first. Adding and discarding cost O(log n) on average; the head is at hand.

    What was discarded, or was added again under another key, stays in the heap until it comes to the top or outnumbers
    the rest.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[Any, int, Item]] = []
        self._current: dict[int, tuple[Any, int, Item]] = {}  # by order

    def __len__(self) -> int:
        return len(self._current)

    def __iter__(self) -> Iterator[Item]:
        """In no particular order."""
        return (item for _, _, item in self._current.values())

    def __contains__(self, item: Item) -> bool:
        return item.order in self._current

    @property
    def head(self) -> Item | None:
        """Of those with the least key the one of the least order."""
        entries = self._entries
        while entries and self._current.get(entries[0][1]) is not entries[0]:
            heapq.heappop(entries)
        return entries[0][2] if entries else None

    def key(self, item: Item) -> Any:
        return self._current[item.order][0]

    def add(self, item: Item, key: Any = ()) -> None:
        """Keys must compare with one another. An item that is in already gets this key."""
        if item in self and self.key(item) == key:
            return
        entry = self._current[item.order] = (key, item.order, item)
        heapq.heappush(self._entries, entry)
        self._drop_discarded()

    def discard(self, item: Item) -> None:
        """Nothing happens if it is not in."""
        if self._current.pop(item.order, None) is not None:
            self._drop_discarded()

    def _drop_discarded(self) -> None:
        if len(self._entries) > 2 * len(self._current) + _FEW:
            self._entries = list(self._current.values())
            heapq.heapify(self._entries)
