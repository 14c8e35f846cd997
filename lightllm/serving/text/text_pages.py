"""Text of many requests at once, appended to the detokenizer's pages of the request table."""

import numpy as np

from lightllm.base.pages import PAGE_WORDS
from lightllm.base.request import FinishReason
from lightllm.base.request_table import RequestTable

_PAGE_BYTES = PAGE_WORDS * 4


class TextPages:
    """Where each record's text goes on: the byte in the page memory, and how many more that page takes."""

    def __init__(self, table: RequestTable):
        self._records = table.records
        self._region = table.text_pages()
        self._memory = table.pages.flat.view(np.uint8)
        self._next = table.pages.next
        self._address = np.zeros(len(self._records), dtype=np.int64)
        self._room = np.zeros(len(self._records), dtype=np.int64)
        self._first = np.full(len(self._records), -1, dtype=np.int32)

    def begin(self, index: int, generation: int) -> None:
        """The record's text is empty and belongs to this generation from now on."""
        record = self._records[index]
        record["text_page"], record["stop_index"] = -1, -1
        record["text_bytes"], record["num_visible"], record["text_finish"] = 0, 0, FinishReason.NONE
        record["text_generation"] = generation
        self._room[index] = 0

    def append(self, indexes: np.ndarray, pieces: list[bytes]) -> list[int]:
        """Adds a piece to each record's text. Returns the places in `indexes` for which there is no room left."""
        if not any(pieces):
            return []
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        failed = []
        for i in np.nonzero(lengths > self._room[indexes])[0].tolist():
            if not self._append_across_pages(int(indexes[i]), pieces[i]):
                failed.append(i)
            pieces[i], lengths[i] = b"", 0
        # All others lie within a page each: one scatter for all bytes.
        offsets = np.cumsum(lengths) - lengths
        addresses = np.repeat(self._address[indexes] - offsets, lengths) + np.arange(lengths.sum())
        self._memory[addresses] = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        self._advance(indexes, lengths)
        return failed

    def release(self, index: int) -> None:
        """Frees the record's pages."""
        self._region.release(int(self._first[index]))
        self._first[index], self._room[index] = -1, 0

    def _append_across_pages(self, index: int, piece: bytes) -> bool:
        more = len(piece) - int(self._room[index])
        pages = self._region.take(-(-more // _PAGE_BYTES))
        if pages is None:
            return False
        data = np.frombuffer(piece, dtype=np.uint8)
        for page in pages.tolist():
            data = data[self._fill(index, data) :]
            self._link(index, page)
        self._fill(index, data)
        return True

    def _fill(self, index: int, data: np.ndarray) -> int:
        """Writes as much of `data` as the current page takes and returns how much."""
        size = min(len(data), int(self._room[index]))
        start = int(self._address[index])
        self._memory[start : start + size] = data[:size]
        self._advance(index, size)
        return size

    def _link(self, index: int, page: int) -> None:
        """Goes on in a new page."""
        if self._first[index] < 0:
            self._first[index] = page
            self._records["text_page"][index] = page
        else:
            self._next[(int(self._address[index]) - 1) // _PAGE_BYTES] = page
        self._address[index], self._room[index] = page * _PAGE_BYTES, _PAGE_BYTES

    def _advance(self, index: int | np.ndarray, size: int | np.ndarray) -> None:
        self._address[index] += size
        self._room[index] -= size
        self._records["text_bytes"][index] += size
