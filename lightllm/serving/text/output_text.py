"""The detokenizer's work: for requests with new output tokens, text into the request table.

State is kept in arrays with an entry per record, so that a step costs a fixed number of array operations and little
for each token.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from lightllm.base.messages import Reference, distinct
from lightllm.base.pages import PAGE_WORDS
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options, RequestTable, output_words
from lightllm.serving.text.answer import Answer
from lightllm.serving.text.incremental import Decoder, Decoders, NoText
from lightllm.serving.text.text_pages import TextPages

_PROMPT_END = 64  # ids of the prompt that a decoder may look at
_NO_ANSWER = Answer(NoText(), Options(), 0)


class OutputText:
    """All requests that are being answered. References are arrays [n, 2] uint32: index, generation."""

    def __init__(self, table: RequestTable, decoders: Decoders | None):
        self._table, self._records = table, table.records
        self._new_decoder: Callable[[int, Options], Decoder] = self._decoder_of(decoders)
        self._text = TextPages(table)
        records = len(self._records)
        self._answers = [_NO_ANSWER] * records
        self._generation = np.zeros(records, dtype=np.uint32)
        self._is_open = np.zeros(records, dtype=bool)
        # Where the next output token lies: how many were taken, the page of the last one, words from one to the next.
        self._taken = np.zeros(records, dtype=np.int32)
        self._page = np.full(records, -1, dtype=np.int32)
        self._width = np.ones(records, dtype=np.int32)

    def open(self, references: np.ndarray) -> np.ndarray:
        """Begins the requests met for the first time; returns those that have not ended."""
        indexes, generations = references.T
        for index, generation in references[self._generation[indexes] != generations].tolist():
            self._begin(index, generation)
        return references[self._is_open[indexes] & (self._generation[indexes] == generations)]

    def advance(self, references: np.ndarray) -> tuple[np.ndarray, list[Reference]]:
        """Writes the text of all new tokens. Returns whose clients to tell, and which requests a stop string ended.

        A request may be named more than once.
        """
        references = self.open(distinct(references))
        indexes = references[:, 0].astype(np.intp)
        finish = self._records["finish_reason"][indexes]  # read before the tokens: published after the last of them
        tokens, counts = self._read_tokens(indexes)
        # Only now is it certain that what was read belongs to these requests and not to later ones of their records:
        # clients raise the generation before they release a request, and nothing of it is used again before that.
        current = self._records["output_generation"][indexes] == references[:, 1]
        current &= self._records["generation"][indexes] == references[:, 1]
        references, indexes = references[current], indexes[current]
        stopped = self._write(indexes, tokens[current].tolist(), counts[current].tolist(), finish[current].tolist())
        return references, [(index, int(self._generation[index])) for index in stopped]

    def release(self, references: np.ndarray) -> None:
        """Frees what these requests hold; nobody reads their text any more."""
        for index, generation in references.tolist():
            if self._generation[index] == generation:
                self._close(index)

    def _begin(self, index: int, generation: int) -> None:
        request = self._read_request(index, generation)
        if request is None:
            return
        self._close(index)
        self._answers[index], self._width[index] = request
        self._generation[index], self._is_open[index] = generation, True
        self._taken[index], self._page[index] = 0, -1
        self._text.begin(index, generation)

    def _read_request(self, index: int, generation: int) -> tuple[Answer, int] | None:
        """What its client wrote, and the width of its output rows; None if the client has left it and moved on."""
        record = self._records[index]
        try:
            options = self._table.options(index)
            answer = Answer(self._new_decoder(index, options), options, int(record["min_tokens"]))
            width = output_words(int(record["num_logprobs"]))
        except msgspec.MsgspecError:  # the client is overwriting it with its next request
            return None
        return (answer, width) if record["generation"] == generation else None

    def _close(self, index: int) -> None:
        self._answers[index], self._generation[index], self._is_open[index] = _NO_ANSWER, 0, False
        self._text.release(index)

    def _read_tokens(self, indexes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """New tokens of each request [requests, most] int32, and how many they are [requests]."""
        counts = self._records["num_output"][indexes] - self._taken[indexes]
        tokens = np.empty((len(indexes), max(0, counts.max(initial=0))), dtype=np.int32)
        for i in range(tokens.shape[1]):
            having = counts > i
            tokens[having, i] = self._next_token(indexes[having])
        return tokens, counts

    def _next_token(self, indexes: np.ndarray) -> np.ndarray:
        taken, width, page = self._taken[indexes], self._width[indexes], self._page[indexes]
        row = taken % (PAGE_WORDS // width)
        begins_page = row == 0
        if begins_page.any():
            first = self._records["output_page"][indexes]
            page = np.where(begins_page, np.where(taken == 0, first, self._table.pages.next[page]), page)
            self._page[indexes] = page
        self._taken[indexes] = taken + 1
        return self._table.pages.flat[page.astype(np.intp) * PAGE_WORDS + row * width]

    def _write(self, indexes: np.ndarray, tokens: list[list[int]], counts: list[int], finish: list[int]) -> list[int]:
        """Decodes and publishes. Returns the indexes of requests that ended here and nowhere else."""
        answers = [self._answers[index] for index in indexes.tolist()]
        pieces = [
            answer.take(new[:count], FinishReason(end)).encode()
            for answer, new, count, end in zip(answers, tokens, counts, finish, strict=True)
        ]
        failed = self._text.append(indexes, pieces)
        for i in failed:
            answers[i].finish = FinishReason.ERROR
        self._records["num_visible"][indexes] = [answer.num_tokens for answer in answers]
        ended = [i for i, answer in enumerate(answers) if answer.finish]
        for i in ended:
            self._end(int(indexes[i]), answers[i])
        return [int(indexes[i]) for i in ended if answers[i].ended_by_string or i in failed]

    def _end(self, index: int, answer: Answer) -> None:
        self._is_open[index] = False
        self._records["stop_index"][index] = answer.stop
        self._records["text_finish"][index] = answer.finish

    def _decoder_of(self, decoders: Decoders | None) -> Callable[[int, Options], Decoder]:
        if decoders is None:
            return lambda index, options: NoText()

        def new(index: int, options: Options) -> Decoder:
            record = self._records[index]
            length = int(record["prompt_length"])
            start = max(0, length - _PROMPT_END)
            end = self._table.pages.read(int(record["prompt_page"]), start, length - start)
            return decoders.new(
                skip_special_tokens=options.skip_special_tokens,
                shown=options.shown_special_tokens,
                prompt_end=end.tolist(),
            )

        return new
