"""The client's side of the request table: records are taken, filled, read and given back here."""

import codecs
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from lightllm.base.grammar import encode
from lightllm.base.pages import PageRegion
from lightllm.base.request import NO_TERMS, FinishReason, Refusal, SamplingParams, Terms
from lightllm.base.request_table import NO_TOKEN_WORDS, Options, RequestTable, TokenWords

_encode = msgspec.msgpack.Encoder().encode
_SAME_NAME = (
    "min_tokens", "temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "input_penalty",
)  # fmt: skip
# What a client fills in before it sends a request, one record at a time.
_WRITTEN: list[str] = [
    *_SAME_NAME, "max_tokens", "max_tokens_given", "top_k", "decay_start", "decay_factor", "num_logprobs",
    "num_prompt_logprobs", "seed", "prompt_page", "prompt_length", "options_page", "options_bytes", "grammar_page",
    "grammar_bytes", "arrival", "priority", "tenant", "salt", "timeout_s",
]  # fmt: skip
_NO_MASK = (
    "what the grammar allows next was not known in time (--mask_timeout_s), or is nothing: it is too complex, or other "
    "parameters of the request forbid all that it allows"
)
_ERROR = "the engine had to end this request, most likely for want of room in the request table; try again later"

_WHOLE = (FinishReason.STOP, FinishReason.LENGTH)  # ends of what has all that was asked for
_ERRORS = {FinishReason.ERROR: _ERROR, FinishReason.GRAMMAR: _NO_MASK}


@dataclass(slots=True)
class _Pages:
    """Prompt, options and grammar in the request table, shared by the samples of one prompt."""

    prompt: int
    options: int
    grammar: int  # -1: none
    users: int


@dataclass(slots=True, eq=False)
class Request:
    """One sample of one prompt, from its submission to its release. Times are time.monotonic(), s."""

    index: int
    generation: int
    sample: int  # 0, 1, ... of its prompt
    prompt_tokens: int
    stops: list[str | int | None]  # what stop_index counts through: stop strings, None for each eos id, stop tokens
    pages: _Pages
    arrival: float
    on_news: Callable[["Request"], None] | None = None
    has_news: bool = False
    first_news: float = 0.0
    last_news: float = 0.0
    text_bytes: int = 0  # read so far
    num_tokens: int = 0  # read so far
    hidden: str = ""  # what is still to come of text that is not shown
    wants_prompt: bool = False  # its prompt's logprobs are still to be read
    wants_vector: bool = False  # its answer is a vector
    has_place: bool = True  # in the queue; the samples of a beam search have one, which is the first one's
    error: str | None = None  # why the engine that ran it is gone, and with it the pages of its output
    is_finished: bool = False  # its end was read
    is_released: bool = False


@dataclass(slots=True, frozen=True)
class Tokens:
    """Some output tokens of one request. logprobs are None where none were asked for; the k likeliest come first."""

    ids: np.ndarray  # [tokens] int32
    logprobs: np.ndarray | None = None  # [tokens] float32
    top_ids: np.ndarray | None = None  # [tokens, k] int32
    top_logprobs: np.ndarray | None = None  # [tokens, k] float32

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> "Tokens":
        arrays = [getattr(self, field.name) for field in fields(self)[1:]]
        return Tokens(self.ids[part], *[None if array is None else array[part] for array in arrays])

    @staticmethod
    def joined(pieces: Sequence["Tokens"]) -> "Tokens":
        """All tokens, in order."""
        if not (pieces := [piece for piece in pieces if len(piece)]):
            return NO_TOKENS
        return Tokens(*[_joined([getattr(piece, field.name) for piece in pieces]) for field in fields(Tokens)])


NO_TOKENS = Tokens(np.empty(0, dtype=np.int32))


@dataclass(slots=True, frozen=True)
class Update:
    """What is new of a request since it was read last."""

    text: str = ""
    tokens: Tokens = NO_TOKENS
    num_tokens: int = 0  # output tokens so far, all reads together
    vector: np.ndarray | None = None  # [width] float32, at the end, of a model that does not generate
    prompt: Tokens = NO_TOKENS  # the prompt's from the second on, where logprobs of them were asked for; comes once
    finish_reason: FinishReason | None = None
    stop_index: int = -1  # into Request.stops: what ended it; -1: none of them
    cached_tokens: int = 0  # of the prompt
    error: str | None = None  # why there is nothing, or not all, for people: with ERROR, REFUSED, and TIMEOUT at once
    retry_after_s: float | None = None  # with REFUSED: when it may be tried again, as far as one knows

    def stop_reason(self, request: Request) -> str | int | None:
        """The stop string or stop token of the client's that ended the request, or "timeout", if one did."""
        if self.finish_reason is FinishReason.TIMEOUT:
            return "timeout"
        return request.stops[self.stop_index] if 0 <= self.stop_index < len(request.stops) else None


def joined(updates: Sequence[Update]) -> Update:
    """All updates of one request, in order, as if it had been read once."""
    if len(updates) == 1:
        return updates[0]
    tokens = Tokens.joined([update.tokens for update in updates])
    prompt = next((update.prompt for update in updates if len(update.prompt)), NO_TOKENS)
    return replace(updates[-1], text="".join([update.text for update in updates]), tokens=tokens, prompt=prompt)


def _joined(arrays: list[Any]) -> Any:
    """None where there are none."""
    return None if arrays[0] is None else np.concatenate(arrays)


class Records:
    """One client's run of records and its prompt pages.

    A free record's generation is one that nobody was told: it is raised when the record is given back, before its
    pages are, so whoever still reads them finds out. `columns` are the record's fields as arrays over all records.
    """

    def __init__(self, table: RequestTable, client: int):
        self._table = table
        self._run = table.client_records(client)
        self._mine = slice(self._run.start, self._run.stop)
        self.columns = {name: table.records[name] for name in table.records.dtype.names or ()}
        self._written = table.records[_WRITTEN]  # these fields only
        # An earlier owner may have died with records in use.
        self.columns["generation"][self._mine] += 1
        self._free = list(reversed(self._run))
        self._pages = table.client_pages(client)

    @property
    def pages(self) -> PageRegion:
        return self._pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(
        self,
        tokens: np.ndarray,
        params: SamplingParams,
        *,
        max_tokens: int,
        stop_ids: list[int],
        token_words: TokenWords = NO_TOKEN_WORDS,
        terms: Terms = NO_TERMS,
        timeout_s: float | None = None,
    ) -> list[Request] | None:
        """Fills a record for each sample of a prompt, tokens [prompt] int32; None if the pages do not suffice."""
        options = _encode(
            Options(
                stop=params.stop,
                stop_token_ids=stop_ids,
                skip_special_tokens=params.skip_special_tokens,
                include_stop=params.include_stop_str_in_output,
                shown_special_tokens=params.shown_special_tokens,
                token_words=token_words,
                beams=params.beams,
            )
        )
        grammar = b"" if params.grammar is None else encode(params.grammar)
        if (pages := self._store(tokens, options, grammar, users=params.num_samples)) is None:
            return None
        now, first_seed = time.monotonic(), secrets.randbits(64) if params.seed is None else params.seed
        indexes = [self._free.pop() for _ in range(params.num_samples)]
        of_all = _sampling_fields(params, max_tokens) | {
            "prompt_page": pages.prompt,
            "prompt_length": len(tokens),
            "options_page": pages.options,
            "options_bytes": len(options),
            "grammar_page": pages.grammar,
            "grammar_bytes": len(grammar),
            "arrival": now,
            "priority": terms.priority,
            "tenant": terms.tenant,
            "salt": terms.salt,
            "timeout_s": timeout_s or 0.0,
        }
        for i, index in enumerate(indexes):
            # The samples of a prompt share it: one of them asks for its logprobs.
            prompt_logprobs = -1 if i or params.prompt_logprobs is None else params.prompt_logprobs
            values = of_all | {"seed": (first_seed + i) % 2**64, "num_prompt_logprobs": prompt_logprobs}
            self._written[index] = tuple(values[name] for name in _WRITTEN)
        named = set(params.stop_token_ids)
        stops = [*params.stop, *(token if token in named else None for token in stop_ids)]
        return [
            Request(
                index,
                int(self.columns["generation"][index]),
                i,
                len(tokens),
                stops,
                pages,
                now,
                hidden=params.hidden_beginning,
                wants_prompt=i == 0 and params.prompt_logprobs is not None,
                has_place=i == 0 or params.beams is None,
            )
            for i, index in enumerate(indexes)
        ]

    def _store(self, tokens: np.ndarray, options: bytes, grammar: bytes, *, users: int) -> _Pages | None:
        stored: list[int | None] = [self._pages.store(tokens), self._pages.store_bytes(options)]
        stored.append(self._pages.store_bytes(grammar) if grammar else -1)
        prompt_page, options_page, grammar_page = stored
        if prompt_page is None or options_page is None or grammar_page is None:
            for page in stored:
                self._pages.release(-1 if page is None else page)
            return None
        return _Pages(prompt_page, options_page, grammar_page, users)

    def give_back(self, request: Request) -> None:
        """The record may be used again, and once no sample needs the prompt, so may its pages."""
        self.columns["generation"][request.index] += 1
        self._free.append(request.index)
        request.pages.users -= 1
        if request.pages.users == 0:
            self._pages.release(request.pages.prompt)
            self._pages.release(request.pages.options)
            self._pages.release(request.pages.grammar)

    def read(self, request: Request, *, with_tokens: bool) -> Update:
        """What is new of a request that the engine still knows."""
        columns, index = self.columns, request.index
        if columns["text_generation"][index] != request.generation:
            return Update()
        # The end is published last, so it is read first: what is read after it is complete.
        finish = FinishReason(int(columns["text_finish"][index]))
        visible, end, start = int(columns["num_visible"][index]), int(columns["text_bytes"][index]), request.text_bytes
        text, tokens = "", NO_TOKENS
        if end > start:
            text, size = codecs.utf_8_decode(self._table.text(index, start, end), "replace", bool(finish))
            request.text_bytes += size
            text = _shown(request, text)
        if with_tokens and visible > request.num_tokens:
            tokens = _tokens(self._table.output(index, request.num_tokens, visible))
        request.num_tokens = visible
        prompt = NO_TOKENS
        if request.wants_prompt and (visible or finish):
            prompt, request.wants_prompt = _tokens(self._table.scores(index)), False
        return Update(
            text,
            tokens,
            visible,
            prompt=prompt,
            vector=self._table.vector(index) if finish in _WHOLE and request.wants_vector else None,
            finish_reason=finish or None,
            stop_index=int(columns["stop_index"][index]) if finish else -1,
            cached_tokens=max(0, int(columns["cached_tokens"][index])),
            error=_ERRORS.get(finish),
        )

    def has_ended(self, request: Request) -> bool:
        """Whether all of a request's text is there."""
        columns, index = self.columns, request.index
        return columns["text_generation"][index] == request.generation and bool(columns["text_finish"][index])

    def prompt_of(self, request: Request) -> np.ndarray:
        """The prompt's token ids [tokens] int32, of a request that was not given back."""
        return self._table.prompt(request.index)

    def waiting(self, requests: Iterable[Request]) -> tuple[int, int]:
        """How many places in the queue these requests have, not being admitted yet, and the tokens of their prompts."""
        indexes = np.fromiter((request.index for request in requests if request.has_place), dtype=np.int64)
        columns = self.columns
        is_seen = columns["output_generation"][indexes] == columns["generation"][indexes]
        indexes = indexes[~(is_seen & ((columns["started"][indexes] > 0) | (columns["finish_reason"][indexes] > 0)))]
        return len(indexes), int(columns["prompt_length"][indexes].sum())

    def refusal(self, request: Request) -> tuple[Refusal, float]:
        """Why the scheduler refused a request, and how many seconds it would have waited; NaN if that is not known."""
        columns, index = self.columns, request.index
        return Refusal(int(columns["refusal"][index])), float(columns["predicted_wait"][index])


def _sampling_fields(params: SamplingParams, max_tokens: int) -> dict[str, object]:
    decay_start, decay_factor = params.exponential_decay_length_penalty or (0, 1.0)
    return {name: getattr(params, name) for name in _SAME_NAME} | {
        "max_tokens": max_tokens,
        "max_tokens_given": params.max_tokens is not None,
        "top_k": max(0, params.top_k),
        "decay_start": decay_start,
        "decay_factor": decay_factor,
        "num_logprobs": params.num_logprobs,
    }


def _shown(request: Request, text: str) -> str:
    """The next text of a request without what is hidden of its beginning."""
    if not request.hidden:
        return text
    common = os.path.commonprefix([request.hidden, text])
    request.hidden = request.hidden[len(common) :] if len(common) == len(text) else ""
    return text[len(common) :]


def _tokens(rows: np.ndarray) -> Tokens:
    """rows [tokens, output_words]: id, then logprob, k ids and k logprobs where wanted."""
    if rows.shape[1] == 1:
        return Tokens(rows[:, 0])
    k = (rows.shape[1] - 2) // 2
    return Tokens(rows[:, 0], rows[:, 1].view(np.float32), rows[:, 2 : 2 + k], rows[:, 2 + k :].view(np.float32))
