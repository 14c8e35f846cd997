"""Chained pages of 32-bit words in shared memory: token ids, logprobs, text. Grow as needed, never sized in advance.

A region of pages has one owner, the only process that takes, links and releases them. Others follow the chain.
"""

import numpy as np
from numpy.typing import NDArray

PAGE_WORDS = 1024
Words = NDArray[np.int32]


class PageMemory:
    """All pages: `words` [pages, PAGE_WORDS] int32 and, for each page, the `next` one of its chain (-1: none)."""

    def __init__(self, view: memoryview, pages: int):
        links = pages * 4
        self.next = np.frombuffer(view[:links], dtype=np.int32)
        self.words = np.frombuffer(view[links : links + pages * PAGE_WORDS * 4], dtype=np.int32).reshape(-1, PAGE_WORDS)
        self.flat = self.words.reshape(-1)

    @staticmethod
    def size(pages: int) -> int:
        """Bytes of memory that `pages` pages need."""
        return pages * 4 * (PAGE_WORDS + 1)

    def read(self, page: int, start: int, count: int) -> Words:
        """`count` words of the chain that begins at `page`, from word `start` on. A copy."""
        for _ in range(start // PAGE_WORDS):
            page = int(self.next[page])
        out, done, offset = np.empty(count, dtype=np.int32), 0, start % PAGE_WORDS
        while done < count:
            run = min(PAGE_WORDS - offset, count - done)
            out[done : done + run] = self.words[page, offset : offset + run]
            done, offset, page = done + run, 0, int(self.next[page])
        return out

    def read_bytes(self, page: int, start: int, count: int) -> bytes:
        """`count` bytes of the chain that begins at `page`, from byte `start` on."""
        first = start // 4
        words = self.read(page, first, -(-(start + count) // 4) - first)
        return words.tobytes()[start - first * 4 :][:count]


class PageRegion:
    """The owner's side of a run of pages: which are free."""

    def __init__(self, memory: PageMemory, first: int, count: int):
        self.memory = memory
        self._free = np.arange(first + count - 1, first - 1, -1, dtype=np.int32)
        self.num_free = count

    def take(self, count: int) -> Words | None:
        """`count` unlinked pages, or None if there are not so many."""
        if count > self.num_free:
            return None
        self.num_free -= count
        pages = self._free[self.num_free : self.num_free + count].copy()
        self.memory.next[pages] = -1
        return pages

    def store(self, words: Words) -> int | None:
        """Writes `words` into a new chain and returns its first page, or None if there is no room."""
        pages = self.take(max(1, -(-len(words) // PAGE_WORDS)))
        if pages is None:
            return None
        self.memory.next[pages[:-1]] = pages[1:]
        for i, page in enumerate(pages):
            part = words[i * PAGE_WORDS : (i + 1) * PAGE_WORDS]
            self.memory.words[page, : len(part)] = part
        return int(pages[0])

    def store_bytes(self, data: bytes) -> int | None:
        """As `store`, for bytes."""
        return self.store(np.frombuffer(data + bytes(-len(data) % 4), dtype=np.int32))

    def release(self, page: int) -> None:
        """Frees the chain that begins at `page`; -1 is the empty chain."""
        while page >= 0:
            self._free[self.num_free] = page
            self.num_free += 1
            page = int(self.memory.next[page])
