"""Which slots of the KV pool are free, and which of them to take so that a request's slots lie side by side."""

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int32]

# Slots that are preferably filled by one request. Longer blocks make longer runs but are less often wholly free.
_BLOCK = 64
_ONE = np.int16(1)


class SlotAllocator:
    """Hands out the slots 0..pool_tokens - 1 one by one; nothing is ever reserved, so the last free slot can be used.

    A new run starts in wholly free blocks, and a request's next token takes the slot after its last one where that is
    free. So a block tends to belong to one request and to become wholly free again when that request ends.
    A call costs O(slots + pool_tokens / 64), in numpy.
    """

    def __init__(self, pool_tokens: int):
        # At least one slot that does not exist follows the last one, so that "the slot after" can always be asked for.
        blocks = pool_tokens // _BLOCK + 1
        self._is_free = np.zeros(blocks * _BLOCK, dtype=np.bool_)
        self._is_free[:pool_tokens] = True
        self._by_block = self._is_free.reshape(blocks, _BLOCK)
        self._room = self._by_block.sum(axis=1, dtype=np.int16)
        self.pool_tokens = self.num_free = pool_tokens

    def take(self, count: int) -> Slots:
        """`count` slots in few runs, those of each block ascending."""
        assert count <= self.num_free, "room is made before slots are taken"
        is_whole, needed = self._room == _BLOCK, -(-count // _BLOCK)
        # Where bytes are as good as an array, they are searched faster.
        if (first := is_whole.tobytes().find(b"\1" * needed)) >= 0:
            return self._take_run(first, count)
        blocks = self._blocks_for(count, is_whole.nonzero()[0])
        block, offset = np.nonzero(self._by_block[blocks])
        slots = (blocks[block] * _BLOCK + offset)[:count].astype(np.int32)
        self._mark_taken(slots)
        return slots

    def take_after(self, last: Slots) -> Slots:
        """One slot for each of the different slots `last`: the one after it if that is free."""
        assert len(last) <= self.num_free, "room is made before slots are taken"
        slots = last + np.int32(1)
        is_free = self._is_free[slots]
        if is_free.all():
            self._mark_taken(slots)
        else:
            self._mark_taken(slots[is_free])
            slots[~is_free] = self._take_apart(int(np.count_nonzero(~is_free)))
        return slots

    def free(self, slots: Slots) -> None:
        if not len(slots):
            return
        assert not self._is_free[slots].any(), "a slot is freed once"
        self._is_free[slots] = True
        np.add.at(self._room, _blocks_of(slots), _ONE)
        self.num_free += len(slots)

    def free_slots(self) -> Slots:
        """All free slots, ascending."""
        return np.flatnonzero(self._is_free).astype(np.int32)

    def _take_run(self, block: int, count: int) -> Slots:
        """`count` slots from the start of this block on; it and those after it are wholly free, as far as needed."""
        start, (whole, rest) = block * _BLOCK, divmod(count, _BLOCK)
        self._is_free[start : start + count] = False
        self._room[block : block + whole] = 0
        if rest:
            self._room[block + whole] -= rest
        self.num_free -= count
        return np.arange(start, start + count, dtype=np.int32)

    def _take_apart(self, count: int) -> Slots:
        """`count` slots, each at the start of a wholly free block while there are such."""
        starts = (np.flatnonzero(self._room == _BLOCK)[:count] * _BLOCK).astype(np.int32)
        self._mark_taken(starts)
        return starts if len(starts) == count else np.concatenate([starts, self.take(count - len(starts))])

    def _blocks_for(self, count: int, whole: NDArray[np.int64]) -> NDArray[np.int64]:
        """Blocks that together have `count` free slots: the closest of the wholly free ones, or the emptiest."""
        needed = -(-count // _BLOCK)
        if needed <= len(whole):
            first = int(np.argmin(whole[needed - 1 :] - whole[: len(whole) - needed + 1]))
            return whole[first : first + needed]
        emptiest = np.argsort(-self._room, kind="stable")
        enough = int(np.searchsorted(np.cumsum(self._room[emptiest]), count)) + 1
        return emptiest[:enough]

    def _mark_taken(self, slots: Slots) -> None:
        self._is_free[slots] = False
        np.subtract.at(self._room, _blocks_of(slots), _ONE)
        self.num_free -= len(slots)


def _blocks_of(slots: Slots) -> NDArray[np.int64]:
    # numpy adds ten times faster at int64 indexes, and with the type of what is added to.
    return slots.astype(np.int64) // _BLOCK
