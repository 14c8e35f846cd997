"""Writes sampled tokens to the output pages of the request table, for a whole batch at a time."""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.pages import PAGE_WORDS
from lightllm.base.request_table import RequestTable, output_words, rows_per_page
from lightllm.base.step import StepResult
from lightllm.serving.scheduling.prompt_scores import PromptScores

Indexes = NDArray[np.int64]


class OutputWriter:
    """Keeps, by index of the record, where its next token goes. Takes pages as they are needed.

    What a record's owner wrote may change as soon as the owner is done with it, so nothing of that is read here.
    """

    def __init__(self, table: RequestTable):
        self._memory, self._region = table.pages, table.output_pages()
        self.scores = PromptScores(table, self._region)
        self._first_page, self._num_output = table.records["output_page"], table.records["num_output"]
        records = len(table.records)
        self._page, self._num_logprobs = np.full(records, -1, dtype=np.int32), np.full(records, -1, dtype=np.int32)
        self._next_word, self._rows_left = np.zeros(records, dtype=np.int64), np.zeros(records, dtype=np.int64)

    def open(self, index: int, *, num_logprobs: int) -> None:
        """Begins an empty output."""
        self.scores.open(index)
        self._num_logprobs[index] = num_logprobs
        self._first_page[index] = self._page[index] = -1
        self._num_output[index] = self._rows_left[index] = 0

    def close(self, index: int) -> None:
        """Frees the pages."""
        self.scores.close(index)
        self._region.release(int(self._first_page[index]))
        self._first_page[index] = self._page[index] = -1

    def num_tokens(self, indexes: Indexes) -> NDArray[np.int32]:
        """Tokens written so far."""
        return self._num_output[indexes]

    def tokens(self, index: int, start: int = 0) -> NDArray[np.int32]:
        """The token ids written so far, from number `start` on. A copy."""
        width, page = output_words(int(self._num_logprobs[index])), int(self._first_page[index])
        pages = [np.empty(0, dtype=np.int32)]
        while page >= 0:
            pages.append(self._memory.words[page, : rows_per_page(width) * width : width])
            page = int(self._memory.next[page])
        return np.concatenate(pages)[start : int(self._num_output[index])]

    def append(self, indexes: Indexes, positions: Indexes, result: StepResult) -> NDArray[np.bool_]:
        """Appends the token at positions[i] of `result` to the output of record indexes[i], then publishes it.

        Returns [n] bool: whether it was written; not if the pages ran out.
        """
        full = indexes[self._rows_left[indexes] == 0]
        if len(full):
            self._add_pages(full)
        has_room = self._rows_left[indexes] > 0
        indexes, positions = indexes[has_room], positions[has_room]
        words, num_logprobs, width = self._next_word[indexes], self._num_logprobs[indexes], 1
        self._memory.flat[words] = result.tokens[positions]
        if num_logprobs.max(initial=-1) >= 0:
            for count in np.unique(num_logprobs[num_logprobs >= 0]).tolist():
                chosen = num_logprobs == count
                self._write_logprobs(words[chosen], positions[chosen], result, count)
            width = np.where(num_logprobs < 0, 1, 2 + 2 * num_logprobs)
        self._next_word[indexes] = words + width
        self._rows_left[indexes] -= 1
        self._num_output[indexes] += 1
        return has_room

    def append_all(self, index: int, result: StepResult) -> bool:
        """Appends all tokens of `result` to one record's output. False: the pages ran out."""
        one = np.array([index])
        return all(self.append(one, np.array([position]), result)[0] for position in range(len(result.tokens)))

    def _write_logprobs(self, words: Indexes, positions: Indexes, result: StepResult, count: int) -> None:
        flat = self._memory.flat
        flat[words + 1] = result.logprobs[positions].view(np.int32)
        places = words[:, None] + 2 + np.arange(count)
        flat[places] = result.top_tokens[positions, :count]
        flat[places + count] = np.ascontiguousarray(result.top_logprobs[positions, :count]).view(np.int32)

    def _add_pages(self, indexes: Indexes) -> None:
        """Links one more page to each output, as far as there are any."""
        indexes = indexes[: self._region.num_free]
        pages = self._region.take(len(indexes))
        assert pages is not None, "no more are taken than are free"
        is_first = self._page[indexes] < 0
        self._first_page[indexes[is_first]] = pages[is_first]
        self._memory.next[self._page[indexes[~is_first]]] = pages[~is_first]
        self._page[indexes] = pages
        self._next_word[indexes] = pages.astype(np.int64) * PAGE_WORDS
        self._rows_left[indexes] = [
            rows_per_page(output_words(count)) for count in self._num_logprobs[indexes].tolist()
        ]
