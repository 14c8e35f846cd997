"""The other writers of a request table, for tests of the detokenizer: a client and a scheduler in a few lines."""

import msgspec
import numpy as np

from lightllm.base import messages
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options, RequestTable, TableShape, output_words, rows_per_page


class Writers:
    """`table` with one client whose records are taken by `submit` and get tokens by `emit`."""

    def __init__(self, records: int = 8, *, clients: int = 1, max_length: int = 4096):
        self.shape = TableShape.of(clients=clients, records=records, max_length=max_length)
        self.memory = RequestTable.create(self.shape)
        self.table = RequestTable(self.memory, self.shape)
        self._client_pages = [self.table.client_pages(client) for client in range(clients)]
        self._output_pages = self.table.output_pages()

    def submit(self, index: int, options: Options, *, prompt=(5, 6), min_tokens=0, num_logprobs=-1) -> tuple[int, int]:
        """Returns the reference of a request that was just admitted."""
        record, pages = self.table.records[index], self._client_pages[index // self.shape.records]
        if record["generation"]:
            self._output_pages.release(int(record["output_page"]))
            pages.release(int(record["prompt_page"]))
            pages.release(int(record["options_page"]))
        encoded = msgspec.msgpack.encode(options)
        record["generation"] += 1
        record["prompt_page"], record["prompt_length"] = pages.store(np.array(prompt, dtype=np.int32)), len(prompt)
        record["options_page"], record["options_bytes"] = pages.store_bytes(encoded), len(encoded)
        record["min_tokens"], record["num_logprobs"] = min_tokens, num_logprobs
        record["num_output"], record["finish_reason"], record["output_page"] = 0, FinishReason.NONE, -1
        record["output_generation"] = record["generation"]
        return index, int(record["generation"])

    def emit(self, index: int, tokens: list[int], finish: FinishReason = FinishReason.NONE) -> None:
        record = self.table.records[index]
        width = output_words(int(record["num_logprobs"]))
        for token in tokens:
            number = int(record["num_output"])
            row = number % rows_per_page(width)
            if row == 0:
                self._add_page(record)
            page = self._last_page(record)
            self.table.pages.words[page, row * width] = token
            self.table.pages.words[page, row * width + 1 : (row + 1) * width] = -1
            record["num_output"] = number + 1
        record["finish_reason"] = finish

    def _add_page(self, record) -> None:
        page = self._output_pages.take(1)[0]
        if record["output_page"] < 0:
            record["output_page"] = page
        else:
            self.table.pages.next[self._last_page(record)] = page

    def _last_page(self, record) -> int:
        page = int(record["output_page"])
        while self.table.pages.next[page] >= 0:
            page = int(self.table.pages.next[page])
        return page

    def text(self, index: int) -> str:
        return self.table.text(index, 0, int(self.table.records[index]["text_bytes"])).decode()


def array(*references: tuple[int, int]) -> np.ndarray:
    return messages.parse_references(np.array(references, dtype=np.uint32).tobytes())
