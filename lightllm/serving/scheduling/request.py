"""A request as the scheduler knows it, read from the request table."""

import math
from collections import namedtuple
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightllm.base.beams import BeamOptions
from lightllm.base.request_table import RECORD, Options, RequestTable
from lightllm.base.step import ROW

if TYPE_CHECKING:
    from lightllm.serving.scheduling.beam_group import BeamGroup

_decode_options = msgspec.msgpack.Decoder(Options).decode
_OF_WORDS = ("num_bias_words", "num_ends", "num_mask_words", "num_first_mask_words", "num_biases")
_NOT_IN_RECORDS = ("row", "index", "generation", "has_grammar", "num_output", "num_stops", *_OF_WORDS)
_SAME_NAME = [name for name in ROW.names or () if name not in _NOT_IN_RECORDS]
_NO_WORDS = np.empty(0, dtype=np.int32)
# Fields of numpy's records are read one by one at the price of the whole tuple.
_Record = namedtuple("_Record", RECORD.names or ())


@dataclass(slots=True, eq=False)
class Request:
    """What of a request is looked at only when it starts, ends or is preempted."""

    index: int  # of its record in the request table
    generation: int
    order: int  # of arrival
    prompt_page: int
    prompt_length: int
    max_tokens: int
    max_tokens_given: bool
    min_tokens: int
    num_logprobs: int
    priority: int  # smaller goes first
    tenant: int
    salt: int  # finds KV only of requests with the same one
    came: float  # s, by the scheduler's clock
    deadline: float  # likewise; infinite: none
    stop_tokens: NDArray[np.int32]
    can_stop: bool  # False: no token and no string ends it before max_tokens
    sampling: np.ndarray  # [1] of ROW, without its row
    num_prompt_logprobs: int = -1  # -1: none wanted
    words: NDArray[np.int32] = field(default_factory=lambda: _NO_WORDS)  # what it wants of single tokens
    has_grammar: bool = False  # only tokens are sampled that its grammar allows
    expected_tokens: int = 0  # of output, as was thought when it came
    predicted_wait: float = math.nan  # s, from its coming to its first token; NaN: nothing was known
    beams: BeamOptions | None = None
    group: "BeamGroup | None" = None  # to which its beams belong, or it as one of them
    tokens: NDArray[np.int32] | None = None  # prompt, and what was generated before it last began; None: not read yet
    row: int = -1  # -1: waits, or has ended
    num_scored: int = 0  # prompt tokens after which the model has been asked how likely the next one was
    num_preemptions: int = 0
    has_started: bool = False  # has been admitted before
    has_ended: bool = False

    @property
    def num_findable(self) -> int:
        """How many of its known tokens need not be computed if the tree has them.

        The last one is always computed, since a token is sampled after it; and so is every one that is still to be
        scored.
        """
        assert self.tokens is not None, "asked of who runs"
        if self.num_prompt_logprobs >= 0 and self.num_scored < self.prompt_length - 1:
            return self.num_scored
        return len(self.tokens) - 1

    @property
    def stops_to_tell(self) -> NDArray[np.int32]:
        """Stop tokens that workers have to know of when it begins: those that it may not sample at first."""
        return self.stop_tokens if self.min_tokens > 0 else self.stop_tokens[:0]

    @property
    def work(self) -> int:
        """Tokens that it is expected to run: prompt and output."""
        return self.prompt_length + self.expected_tokens


def read_request(table: RequestTable, index: int, generation: int, *, order: int, now: float = 0.0) -> Request | None:
    """Copies what the client has put into the record and its options. None if the client has taken it back meanwhile.

    A client raises the generation before it uses record or pages for something else, so what was read is only valid
    if the generation still holds afterwards. The prompt is read when the request starts.
    """
    record = _Record(*table.records[index].item())
    encoded = table.pages.read_bytes(record.options_page, 0, record.options_bytes)
    if int(table.records["generation"][index]) != generation:
        return None
    options = _decode_options(encoded)
    has_grammar = record.grammar_bytes > 0
    known = {"index": index, "generation": generation, "has_grammar": has_grammar}
    known |= {name: getattr(record, name) for name in _SAME_NAME}
    known |= {name: getattr(options.token_words, name) for name in _OF_WORDS}
    return Request(
        index=index,
        generation=generation,
        order=order,
        prompt_page=record.prompt_page,
        prompt_length=record.prompt_length,
        max_tokens=record.max_tokens,
        max_tokens_given=record.max_tokens_given,
        min_tokens=record.min_tokens,
        num_logprobs=record.num_logprobs,
        num_prompt_logprobs=record.num_prompt_logprobs,
        priority=record.priority,
        tenant=record.tenant,
        salt=record.salt,
        came=now,
        deadline=now + (record.timeout_s or math.inf),
        stop_tokens=np.array(sorted(set(options.stop_token_ids)), dtype=np.int32),
        has_grammar=has_grammar,
        can_stop=bool(options.stop_token_ids or options.stop),
        sampling=np.array([tuple(known.get(name, 0) for name in ROW.names or ())], dtype=ROW),
        words=np.frombuffer(options.token_words.words, dtype=np.int32),
        beams=options.beams,
    )


def read_prompt(table: RequestTable, request: Request) -> NDArray[np.int32] | None:
    """The prompt's token ids [prompt_length]. None if the client has taken them back meanwhile."""
    prompt = table.pages.read(request.prompt_page, 0, request.prompt_length)
    return prompt if int(table.records["generation"][request.index]) == request.generation else None
