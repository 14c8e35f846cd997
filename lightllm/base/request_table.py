"""The table of requests, in shared memory: processes send one another indexes into it, not copies.

Each field of a record is written by one process only, named beside it. A record is used again and again: its owner
raises `generation` each time, the other writers stamp their own fields with the generation they belong to, and a
reader that finds another generation than the one it was told knows that the record has moved on.

Writers write data first, then the field that publishes it (a count, a finish reason), so a reader sees no data early.

A request's life: a client fills a record and its pages and sends (index, generation) to the scheduler; the scheduler
appends output tokens and tells the detokenizer; the detokenizer appends text and tells the client; the client reads
until `text_finish` is set, sends a release, and may use the record again at once.
"""

from dataclasses import dataclass

import msgspec
import numpy as np

from lightllm.base.beams import BeamOptions
from lightllm.base.pages import PAGE_WORDS, PageMemory, PageRegion
from lightllm.base.shared_memory import SharedMemory

RECORD = np.dtype(
    [
        # written by the client that owns the record (an api process, or the offline API)
        ("generation", np.uint32),
        ("prompt_page", np.int32),
        ("prompt_length", np.int32),  # tokens
        ("options_page", np.int32),  # Options, encoded
        ("options_bytes", np.int32),
        ("grammar_page", np.int32),  # what the answer must look like (base/grammar), encoded
        ("grammar_bytes", np.int32),  # 0: anything
        ("arrival", np.float64),  # time.monotonic(), s
        ("max_tokens", np.int32),  # output tokens; always set: validation fills in what model and pool allow
        ("max_tokens_given", np.bool_),  # False: max_tokens is only an upper bound, nobody expects that many
        ("min_tokens", np.int32),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("top_k", np.int32),  # 0: off
        ("min_p", np.float32),
        ("typical_p", np.float32),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("input_penalty", np.bool_),  # presence and frequency penalties count tokens of the prompt, too
        ("decay_start", np.int32),  # output tokens after which eos tokens become likelier
        ("decay_factor", np.float32),  # by how much with each further token; 1: not
        ("seed", np.uint64),
        ("num_logprobs", np.int32),  # -1: none wanted
        ("num_prompt_logprobs", np.int32),  # likewise, of the prompt's tokens
        ("priority", np.int32),  # smaller goes first
        ("tenant", np.uint64),
        ("salt", np.uint32),  # finds KV in the prefix tree only of requests with the same one
        ("timeout_s", np.float64),  # from its coming to the scheduler until its time is up; 0: never
        # written by the scheduler
        ("output_generation", np.uint32),
        ("output_page", np.int32),  # rows of `output_words(num_logprobs)` words, see there
        ("num_output", np.int32),  # publishes the tokens
        # Logprobs of the prompt's tokens from the second on, there before the first output token is: rows of
        # `output_words(num_prompt_logprobs)` words. Or, of a model that does not generate, so many words of a vector
        ("scores_page", np.int32),
        ("num_scores", np.int32),
        ("cached_tokens", np.int32),  # of the prompt, found in the prefix tree at first admission
        ("finish_reason", np.uint8),  # publishes the end of the request
        ("preemptions", np.int32),
        ("started", np.float64),  # time.monotonic() of the first admission, s
        ("refusal", np.uint8),  # why it was not taken in: Refusal
        ("predicted_wait", np.float64),  # when it came: seconds until it would be admitted; NaN: nothing is known
        # written by the detokenizer
        ("text_generation", np.uint32),
        ("text_page", np.int32),  # UTF-8
        ("text_bytes", np.int32),
        ("num_visible", np.int32),  # output tokens that count: those after a stop string do not. Publishes the text
        ("stop_index", np.int32),  # which stop string or token matched: Options.stop, then stop tokens; -1: none
        ("text_finish", np.uint8),  # publishes the end of the text; nothing changes after it
    ],
    align=True,
)


class TokenWords(msgspec.Struct, frozen=True, array_like=True):
    """What a request wants of single tokens, as int32 words: biases, ends, mask and mask of the first token, of which
    any may be missing. See base/token_words.py."""

    words: bytes = b""
    num_biases: int = 0
    num_bias_words: int = 0
    num_ends: int = 0
    num_mask_words: int = 0
    num_first_mask_words: int = 0


NO_TOKEN_WORDS = TokenWords()


class Options(msgspec.Struct, frozen=True, array_like=True):
    """What of a request has no fixed size. Kept in the record's option pages."""

    stop: list[str] = []
    stop_token_ids: list[int] = []  # eos ids included, unless ignored
    skip_special_tokens: bool = True
    include_stop: bool = False
    shown_special_tokens: list[int] = []
    token_words: TokenWords = NO_TOKEN_WORDS
    beams: BeamOptions | None = None


_OPTIONS = msgspec.msgpack.Decoder(Options)


def output_words(num_logprobs: int) -> int:
    """Words of one output token: its id; with logprobs its logprob (float32 bits), k ids and their k logprobs."""
    return 1 if num_logprobs < 0 else 2 + 2 * num_logprobs


@dataclass(frozen=True)
class TableShape:
    """Sizes every process must agree on."""

    clients: int
    records: int  # of each client
    prompt_pages: int  # of each client
    output_pages: int
    text_pages: int

    @property
    def pages(self) -> int:
        """All pages: each client's run, then the scheduler's, then the detokenizer's."""
        return self.clients * self.prompt_pages + self.output_pages + self.text_pages

    @classmethod
    def of(cls, *, clients: int, records: int, max_length: int) -> "TableShape":
        """Room for every record at once at its longest; untouched pages take no memory.

        Options and logprobs come out of the same room: a table that is full of longest requests with logprobs may
        run out of pages, which refuses or ends single requests.
        """
        each = -(-max_length // PAGE_WORDS) + 2
        return cls(clients, records, records * each, clients * records * 2 * each, clients * records * 2 * each)


class RequestTable:
    """`records` [clients * records] of RECORD, and the pages."""

    def __init__(self, memory: SharedMemory, shape: TableShape):
        self.shape = shape
        bytes_of_records = shape.clients * shape.records * RECORD.itemsize
        self.records = np.frombuffer(memory.view[:bytes_of_records], dtype=RECORD)
        self.pages = PageMemory(memory.view[_aligned(bytes_of_records) :], shape.pages)

    @classmethod
    def create(cls, shape: TableShape) -> SharedMemory:
        """The segment for a table of this shape."""
        bytes_of_records = _aligned(shape.clients * shape.records * RECORD.itemsize)
        return SharedMemory.create("requests", bytes_of_records + PageMemory.size(shape.pages))

    def client_records(self, client: int) -> range:
        """Indexes of the records that `client` owns."""
        return range(client * self.shape.records, (client + 1) * self.shape.records)

    def client_pages(self, client: int) -> PageRegion:
        return PageRegion(self.pages, client * self.shape.prompt_pages, self.shape.prompt_pages)

    def output_pages(self) -> PageRegion:
        return PageRegion(self.pages, self.shape.clients * self.shape.prompt_pages, self.shape.output_pages)

    def text_pages(self) -> PageRegion:
        return PageRegion(self.pages, self.shape.pages - self.shape.text_pages, self.shape.text_pages)

    def prompt(self, index: int) -> np.ndarray:
        """The prompt's token ids [prompt_length] int32. A copy."""
        record = self.records[index]
        return self.pages.read(int(record["prompt_page"]), 0, int(record["prompt_length"]))

    def options(self, index: int) -> Options:
        record = self.records[index]
        return _OPTIONS.decode(self.pages.read_bytes(int(record["options_page"]), 0, int(record["options_bytes"])))

    def grammar(self, index: int, generation: int) -> bytes | None:
        """The encoded grammar of a request; None if its client has taken the record back."""
        record = self.records[index].copy()
        data = self.pages.read_bytes(int(record["grammar_page"]), 0, int(record["grammar_bytes"]))
        return data if int(self.records["generation"][index]) == generation else None

    def output(self, index: int, start: int, stop: int) -> np.ndarray:
        """Output tokens start..stop as rows [stop - start, output_words] int32. A copy."""
        record = self.records[index]
        return self._read_rows(int(record["output_page"]), start, stop, output_words(int(record["num_logprobs"])))

    def scores(self, index: int) -> np.ndarray:
        """What is known of the prompt's tokens from the second on, as rows [tokens, output_words] int32. A copy."""
        record = self.records[index]
        width = output_words(int(record["num_prompt_logprobs"]))
        return self._read_rows(int(record["scores_page"]), 0, int(record["num_scores"]), width)

    def vector(self, index: int) -> np.ndarray:
        """What stands for the prompt, [width] float32: of a model that does not generate."""
        record = self.records[index]
        return self.pages.read(int(record["scores_page"]), 0, int(record["num_scores"])).view(np.float32)

    def _read_rows(self, page: int, start: int, stop: int, width: int) -> np.ndarray:
        if width == 1:
            return self.pages.read(page, start, stop - start)[:, None]
        return _rows(self.pages.read(page, *_word_run(start, stop, width)), start, stop, width)

    def text(self, index: int, start: int, stop: int) -> bytes:
        """Bytes start..stop of the text."""
        return self.pages.read_bytes(int(self.records[index]["text_page"]), start, stop - start)


def rows_per_page(width: int) -> int:
    """Output rows of `width` words that one page holds; a row never crosses a page."""
    return PAGE_WORDS // width


def _word_run(start: int, stop: int, width: int) -> tuple[int, int]:
    per_page = rows_per_page(width)
    first = start // per_page * PAGE_WORDS + start % per_page * width
    end = first if stop == start else (stop - 1) // per_page * PAGE_WORDS + (stop - 1) % per_page * width + width
    return first, end - first


def _rows(words: np.ndarray, start: int, stop: int, width: int) -> np.ndarray:
    per_page = rows_per_page(width)
    index = np.arange(start, stop)
    first = index // per_page * PAGE_WORDS + index % per_page * width
    return words[(first - first[:1])[:, None] + np.arange(width)]


def _aligned(size: int) -> int:
    return -(-size // 4096) * 4096
