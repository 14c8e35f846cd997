"""Writes what is found out about prompts to pages of the request table: logprobs of their tokens, as the chunks of a
prompt are computed, or the vector that stands for it."""

import numpy as np
from numpy.typing import NDArray

from lightllm.base.pages import PageRegion
from lightllm.base.request_table import RequestTable, output_words, rows_per_page
from lightllm.base.step import StepResult


class PromptScores:
    """A chain of pages for each record that wants any, of the same form as its output."""

    def __init__(self, table: RequestTable, region: PageRegion):
        """`region`: where pages are taken from."""
        self._memory, self._region = table.pages, region
        self._first_page, self._num_scores = table.records["scores_page"], table.records["num_scores"]
        self._last_page = np.full(len(table.records), -1, dtype=np.int32)

    def open(self, index: int) -> None:
        self._first_page[index] = self._last_page[index] = -1
        self._num_scores[index] = 0

    def close(self, index: int) -> None:
        """Frees the pages."""
        self._region.release(int(self._first_page[index]))
        self._first_page[index] = self._last_page[index] = -1

    def append(
        self, index: int, tokens: NDArray[np.int32], result: StepResult, which: slice, *, num_logprobs: int
    ) -> bool:
        """Appends the scores `which` of a result, those of `tokens`, then publishes them. False: the pages ran out."""
        width = output_words(num_logprobs)
        rows = np.empty((len(tokens), width), dtype=np.int32)
        rows[:, 0], rows[:, 1] = tokens, result.scores[which].view(np.int32)
        rows[:, 2 : 2 + num_logprobs] = result.score_top_tokens[which, :num_logprobs]
        top = np.ascontiguousarray(result.score_top_logprobs[which, :num_logprobs])
        rows[:, 2 + num_logprobs :] = top.view(np.int32)
        done = 0
        while done < len(rows):
            count = int(self._num_scores[index])
            at = count % rows_per_page(width)
            if at == 0 and not self._add_page(index):
                return False
            part = rows[done : done + rows_per_page(width) - at]
            page = self._memory.words[self._last_page[index]]
            page[at * width : (at + len(part)) * width] = part.reshape(-1)
            self._num_scores[index] = count + len(part)
            done += len(part)
        return True

    def put(self, index: int, vector: NDArray[np.float32]) -> bool:
        """Writes a vector, which is all that this record gets. False: the pages ran out."""
        page = self._region.store(vector.view(np.int32))
        if page is None:
            return False
        self._first_page[index], self._num_scores[index] = page, len(vector)
        return True

    def _add_page(self, index: int) -> bool:
        page = self._region.take(1)
        if page is None:
            return False
        last = self._last_page[index]
        if last < 0:
            self._first_page[index] = page[0]
        else:
            self._memory.next[last] = page[0]
        self._last_page[index] = page[0]
        return True
