"""Puts a step together as the arrays of a StepPlan, and bounds how large these arrays can become."""

from dataclasses import dataclass, field, fields

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.base.step import LAST_SAMPLED, ROW, StepPlan, StepResult
from lightllm.base.token_words import MOST_WORDS
from lightllm.serving.scheduling.beam_search import MOST_CANDIDATES
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.rows import Rows

# Stop tokens that one plan can tell the workers of; the longest allowed list of one request has a quarter of them.
_STOP_TOKENS = 4096
# Words of other kinds; a request has a quarter of them at most.
_WORDS = 4 * MOST_WORDS
_MOST_LOGPROBS = 20
# With a target for the step time, which may be one that cannot be met: a prompt of 4,096 tokens takes 128 steps then.
_FEWEST_PROMPT_TOKENS = 32
# Of `pack`: headers and alignment of each field.
_BYTES_OF_FIELD = 128
_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class StepLimits:
    """The largest step that a configuration allows."""

    rows: int
    tokens: int
    chunk: int  # tokens of one request
    prompt_tokens: int  # of prompts that a step runs at least, if there are any and decodes leave room
    update_slots: int
    stop_tokens: int
    words: int
    prompts_first: bool  # decodes may have to wait for prompts
    small_tokens: int  # of a step in which prompts run beside decodes, where that is better (spreading); 0: nowhere

    @classmethod
    def of(cls, config: EngineConfig, max_length: int, *, small_tokens: int = 0) -> "StepLimits":
        tokens = config.batch_max_tokens
        return cls(
            # Every running request can run a token in every step.
            rows=min(config.running_max_req_size, tokens),
            tokens=tokens,
            chunk=min(config.chunked_prefill_size or tokens, tokens),
            prompt_tokens=tokens if config.itl_target_s is None else min(tokens, _FEWEST_PROMPT_TOKENS),
            # Room for one longest prefix at least, so that no request waits for ever.
            update_slots=tokens + max(max_length, 8 * tokens),
            stop_tokens=_STOP_TOKENS,
            words=_WORDS,
            prompts_first=config.prompts_first,
            small_tokens=min(small_tokens, tokens) if config.prompts_first else 0,
        )

    @property
    def least_room(self) -> int:
        """Tokens that small steps have for prompts at least."""
        return -(-self.small_tokens // 4)


def plan_bytes(config: EngineConfig, max_length: int) -> int:
    """Bytes that any packed StepPlan fits in."""
    limits = StepLimits.of(config, max_length)
    of_rows = limits.rows * (3 * 4 + 1 + 3 * 4 + ROW.itemsize)
    of_tokens = 4 * (limits.tokens + limits.update_slots + limits.stop_tokens + limits.words)
    return of_rows + of_tokens + 2 * 4 * limits.tokens + _BYTES_OF_FIELD * len(fields(StepPlan))


def result_bytes(config: EngineConfig, max_length: int, *, vector_width: int = 0) -> int:
    """Bytes that any packed StepResult fits in."""
    limits = StepLimits.of(config, max_length)
    logprobs = limits.rows * (1 + MOST_CANDIDATES) + limits.tokens * (1 + _MOST_LOGPROBS)
    return 8 * logprobs + 4 * limits.rows * vector_width + _BYTES_OF_FIELD * len(fields(StepResult))


@dataclass(slots=True)
class Chunk:
    """Known tokens that a row runs in this step."""

    row: int
    start: int
    tokens: np.ndarray
    samples: bool
    told: int  # where the changes of its line of the slot table begin
    begins: bool
    scored: int = 0  # where the tokens begin of which it is asked how likely their successors were
    successors: np.ndarray = field(default_factory=lambda: _NONE)
    num_score_logprobs: int = 0


class PlanDraft:
    """A step in the making: how much of the limits is left."""

    def __init__(self, limits: StepLimits, *, tokens: int):
        """`tokens`: that the step may run, at most limits.tokens."""
        self.tokens_left, self.update_slots_left = tokens, limits.update_slots
        self.stop_tokens_left, self.words_left = limits.stop_tokens, limits.words
        self.decodes = np.empty(0, dtype=np.int64)
        self.decode_starts = self.decodes
        self.chunks: list[Chunk] = []

    def add_decodes(self, rows: np.ndarray, starts: np.ndarray) -> None:
        """Rows that run the token they sampled last, at position `starts`."""
        self.decodes, self.decode_starts = rows, starts
        self.tokens_left -= len(rows)
        self.update_slots_left -= len(rows)

    def can_tell_of(self, request: Request) -> bool:
        """Whether there is room for what workers have to know of a request that begins."""
        return len(request.stops_to_tell) <= self.stop_tokens_left and len(request.words) <= self.words_left

    def add(self, chunk: Chunk, request: Request) -> None:
        self.chunks.append(chunk)
        self.tokens_left -= len(chunk.tokens)
        self.update_slots_left -= chunk.start + len(chunk.tokens) - chunk.told
        if chunk.begins:
            self.stop_tokens_left -= len(request.stops_to_tell)
            self.words_left -= len(request.words)

    def finish(self, step: int, rows: Rows) -> StepPlan:
        """The plan, sequences of one token first."""
        chunks = sorted(self.chunks, key=lambda chunk: len(chunk.tokens) > 1)
        decodes = len(self.decodes)
        ones = np.ones(decodes, dtype=np.int32)
        update_rows = _join(self.decodes, [chunk.row for chunk in chunks])
        begins, stop_tokens, words = _beginnings([chunk.row for chunk in chunks if chunk.begins], rows)
        return StepPlan(
            step=step,
            rows=update_rows,
            starts=_join(self.decode_starts, [chunk.start for chunk in chunks]),
            counts=_join(ones, [len(chunk.tokens) for chunk in chunks]),
            samples=np.concatenate([ones, [chunk.samples for chunk in chunks]]).astype(np.bool_),
            tokens=np.concatenate([ones * LAST_SAMPLED, *[chunk.tokens for chunk in chunks]]),
            update_rows=update_rows,
            update_starts=_join(self.decode_starts, [chunk.told for chunk in chunks]),
            update_counts=_join(ones, [chunk.start + len(chunk.tokens) - chunk.told for chunk in chunks]),
            update_slots=np.concatenate(
                [
                    rows.slots[self.decodes, self.decode_starts],
                    *[rows.slots[chunk.row, chunk.told : chunk.start + len(chunk.tokens)] for chunk in chunks],
                ]
            ),
            begins=begins,
            stop_tokens=stop_tokens,
            words=words,
            scored=_scored(chunks, first=decodes),
            successors=np.concatenate([_NONE, *[chunk.successors for chunk in chunks]]),
            num_score_logprobs=max((chunk.num_score_logprobs for chunk in chunks), default=0),
        )


def _join(of_decodes: np.ndarray, of_chunks: list[int]) -> np.ndarray:
    joined = np.empty(len(of_decodes) + len(of_chunks), dtype=np.int32)
    joined[: len(of_decodes)], joined[len(of_decodes) :] = of_decodes, of_chunks
    return joined


def _scored(chunks: list[Chunk], *, first: int) -> np.ndarray:
    """Which places in the tokens of these chunks, which begin at place `first`, are asked about."""
    places = [_NONE]
    for chunk in chunks:
        if len(chunk.successors):
            begin = first + chunk.scored - chunk.start
            places.append(np.arange(begin, begin + len(chunk.successors), dtype=np.int32))
        first += len(chunk.tokens)
    return np.concatenate(places)


def _beginnings(begun: list[int], rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sampling parameters of rows that begin, the stop tokens of those that may not sample them at first, words."""
    begins, stops, words = np.empty(len(begun), dtype=ROW), [_NONE], [_NONE]
    for at, row in enumerate(begun):
        request = rows.requests[row]
        assert request is not None, "a row that begins has a request"
        assert request.tokens is not None, "which knows its tokens"
        begins[at] = request.sampling[0]
        begin = begins[at]
        begin["row"], begin["num_stops"] = row, len(request.stops_to_tell)
        begin["num_output"] = len(request.tokens) - request.prompt_length
        stops.append(request.stops_to_tell)
        words.append(request.words)
    return begins, np.concatenate(stops), np.concatenate(words)
