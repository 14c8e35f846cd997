"""The KV pool as the scheduler sees it: slots that are free, in use, or only kept by the prefix tree."""

import numpy as np

from lightllm.serving.scheduling.prefix_tree import PrefixTree, Tokens
from lightllm.serving.scheduling.slots import SlotAllocator, Slots

_NONE = np.empty(0, dtype=np.int32)


class Pool:
    """Tokens that only the tree keeps are as good as free: taking slots evicts them. `sharing` False: no tree."""

    def __init__(self, pool_tokens: int, *, sharing: bool):
        self.pool_tokens, self.sharing = pool_tokens, sharing
        self.slots, self.tree = SlotAllocator(pool_tokens), PrefixTree()

    @property
    def num_available(self) -> int:
        """Slots that can be taken now."""
        return self.slots.num_free + self.tree.num_unheld

    @property
    def num_used(self) -> int:
        """Slots that running requests hold, shared ones once."""
        return self.pool_tokens - self.num_available

    def take(self, count: int) -> Slots:
        self._evict_for(count)
        return self.slots.take(count)

    def take_after(self, last: Slots) -> Slots:
        self._evict_for(len(last))
        return self.slots.take_after(last)

    def root(self, salt: int) -> int:
        """As PrefixTree.root."""
        return self.tree.root(salt)

    def find(self, node: int, tokens: Tokens) -> tuple[int, Slots]:
        """As PrefixTree.find."""
        return self.tree.find(node, tokens) if self.sharing else (node, _NONE)

    def enter(self, node: int, tokens: Tokens, slots: Slots) -> int | None:
        """A running request's next tokens enter the tree. None: they stay its own, as the tree has such already."""
        if not self.sharing or self.tree.has_child(node, int(tokens[0])):
            return None
        return self.tree.add(node, tokens, slots)

    def give_back(self, node: int, tokens: Tokens, slots: Slots) -> None:
        """A request that held `node` leaves its own slots [m]; the first ones hold the KV of `tokens` [k <= m].

        What the tree lacks of these tokens it keeps; all other slots are free.
        """
        end, found = self.find(node, tokens)
        num_kept = len(tokens) if self.sharing else 0
        if num_kept > len(found):
            end = self.tree.add(end, tokens[len(found) :], slots[len(found) : num_kept])
        self.tree.release(end)
        self.slots.free(slots[: len(found)])
        self.slots.free(slots[num_kept:])

    def flush(self) -> int:
        """Evicts all tokens that only the tree keeps; returns how many."""
        slots = self.tree.evict(self.tree.num_unheld)
        self.slots.free(slots)
        return len(slots)

    def _evict_for(self, count: int) -> None:
        if (lacking := count - self.slots.num_free) > 0:
            self.slots.free(self.tree.evict(lacking))
