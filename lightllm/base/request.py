"""What a client asks for: sampling parameters, and how a request ends."""

from enum import IntEnum
from typing import Literal

import msgspec

from lightllm.base.beams import BeamOptions, check_beams
from lightllm.base.errors import RequestError
from lightllm.base.grammar import Grammar


class FinishReason(IntEnum):
    """Why a request ended. The values are stored in the request table."""

    NONE = 0
    STOP = 1  # an eos token, a stop token or a stop string
    LENGTH = 2
    ABORT = 3  # the client left, or the server is shutting down
    ERROR = 4  # the engine could not go on with it
    REFUSED = 5  # never ran, for the reason that is its Refusal
    TIMEOUT = 6  # its time was up; it ends with what there is, which may be nothing
    GRAMMAR = 7  # what its grammar allows next was not known in time, or was nothing


class Refusal(IntEnum):
    """Why the scheduler did not take a request in. The values are stored in the request table."""

    NONE = 0
    QUEUE_REQUESTS = 1  # as many wait as may wait
    QUEUE_TOKENS = 2  # as many prompt tokens wait as may wait
    TOO_LATE = 3  # it would wait longer than the target for first tokens, or than its own time


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On what terms a request waits and runs, whatever it asks for."""

    priority: int = 0  # smaller goes first, where the queue is ordered by priority
    timeout_s: float | None = None  # from submission to the last token; None: the server's
    tenant: int = 0  # whose share of the server it uses: any 64 bits; 0: that of all who are not told apart
    salt: int = 0  # shares KV of equal prefixes only with requests of the same one: any 32 bits; 0: those without

    def __post_init__(self) -> None:
        if not -1000 <= self.priority <= 1000:
            raise RequestError(
                f"priority={self.priority} is not allowed; use an integer from -1000 (first) to 1000", param="priority"
            )
        # Written so that NaN fails it.
        if self.timeout_s is not None and not 0 < self.timeout_s <= 1e9:
            raise RequestError(f"timeout_s={self.timeout_s} is not allowed; use seconds above 0", param="timeout_s")


NO_TERMS = Terms()


LongTruncation = Literal["head", "center", "tail"]  # what a prompt that is too long loses


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to continue a prompt. Defaults are the neutral values; a server overlays generation_config.json."""

    n: int = 1
    best_of: int | None = None  # so many are generated, of which the n best are the answer; None: n
    max_tokens: int | None = None  # None: as far as model and pool allow
    min_tokens: int = 0  # eos, stop tokens and stop strings are ignored before this many
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = -1  # -1 or 0: off
    min_p: float = 0.0
    typical_p: float = 1.0  # before top_k, top_p and min_p; 1: off
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    input_penalty: bool = False  # whether these two count tokens of the prompt, too
    logit_bias: dict[int, float] | None = None  # added to the logits of these tokens
    allowed_token_ids: list[int] | None = None  # no others are sampled
    first_token_ids: list[int] | None = None  # the first token is one of these
    token_healing: bool = False  # the prompt's last token is generated again, perhaps as part of a longer one
    hidden_beginning: str = ""  # text at the beginning of the output that is not shown: that of a healed token
    bad_words: list[str] = []  # none of them is completed, with or without a space before it
    bad_words_token_ids: list[list[int]] = []  # the same as tokens; what offers a tokenizer fills it in from bad_words
    # (start, factor): once there are more than `start` tokens, the logit x of an eos token becomes
    # x + |x| (factor^(tokens - start) - 1)
    exponential_decay_length_penalty: tuple[int, float] | None = None
    seed: int | None = None  # None: drawn anew for every request
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    grammar: Grammar | None = None  # what the answer must look like; see docs/structured.md
    logprobs: int | None = None  # None: none; k: of the chosen token and the k likeliest
    prompt_logprobs: int | None = None  # likewise, of each token of the prompt but the first
    skip_special_tokens: bool = True
    shown_special_tokens: list[int] = []  # not skipped, whatever skip_special_tokens says
    include_stop_str_in_output: bool = False
    truncate_prompt_tokens: int | None = None  # that a prompt keeps at most; -1: as many as are allowed
    truncation_side: Literal["left", "right"] = "left"  # where truncate_prompt_tokens takes tokens away
    long_truncation_mode: LongTruncation | Literal["none"] | None = None  # None: the server's
    # Beam search, whose n best hypotheses are the answer. Nothing is drawn, so what changes chances must be neutral
    num_beams: int | None = None  # of all groups; None: no beam search
    num_beam_groups: int = 1  # that search apart
    diversity_penalty: float = 0.0  # for a token that an earlier group has chosen in the same place
    length_penalty: float = 1.0  # a hypothesis' score is its logprob / length ** length_penalty
    early_stopping: bool | Literal["never"] = False  # whether the first num_beams hypotheses are enough

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            msgspec.structs.force_setattr(self, "stop", [self.stop])
        for name, allowed, holds in self._rules():
            if not holds:
                raise RequestError(f"{name}={getattr(self, name)!r} is not allowed; use {allowed}", param=name)
        check_beams(self, searches=self.num_beams is not None)
        self._check_grammar()

    def _check_grammar(self) -> None:
        if self.grammar is None:
            return
        for name, is_asked, reason in (
            ("ignore_eos", self.ignore_eos, "an answer that follows a grammar ends where that does"),
            ("num_beams", self.num_beams is not None, "beams do not follow grammars"),
            ("token_healing", self.token_healing, "the healed token is no part of the answer"),
        ):
            if is_asked:
                raise RequestError(f"{name} and a grammar exclude one another: {reason}; leave one out", param=name)

    @property
    def beams(self) -> BeamOptions | None:
        """How beams are searched for, if they are."""
        if self.num_beams is None:
            return None
        return BeamOptions(
            self.num_beams, self.num_beam_groups, self.diversity_penalty, self.length_penalty, self.early_stopping
        )

    @property
    def known_length(self) -> int | None:
        """How many tokens will be generated, if nothing can end the answer earlier."""
        can_stop = not self.ignore_eos or self.stop or self.stop_token_ids or self.num_beams is not None
        return None if can_stop else self.max_tokens

    @property
    def num_samples(self) -> int:
        """How many continuations are generated."""
        return self.n if self.best_of is None else self.best_of

    @property
    def num_logprobs(self) -> int:
        """Of how many of the likeliest tokens, beside the chosen one, logprobs are computed; -1: of none at all.

        To choose the best takes those of the chosen tokens, whether or not the answer shows them.
        """
        if self.logprobs is not None:
            return self.logprobs
        return 0 if self.num_samples > self.n else -1

    def _rules(self) -> list[tuple[str, str, bool]]:
        # Comparisons are written so that NaN fails them.
        return [
            ("n", "an integer from 1 to 128", 1 <= self.n <= 128),
            (
                "best_of",
                f"an integer from n={self.n} to 128",
                self.best_of is None or self.n <= self.best_of <= 128,
            ),
            (
                "num_beams",
                f"an integer from n={self.n} to 32 that num_beam_groups={self.num_beam_groups} divides",
                self.num_beams is None
                or (
                    self.n <= self.num_beams <= 32
                    and self.num_beam_groups > 0
                    and self.num_beams % self.num_beam_groups == 0
                ),
            ),
            ("diversity_penalty", "a number from 0 to 1000", 0 <= self.diversity_penalty <= 1000),
            ("length_penalty", "a number from -10 to 10", -10 <= self.length_penalty <= 10),
            ("max_tokens", "an integer of at least 1", self.max_tokens is None or 1 <= self.max_tokens < 2**31),
            ("min_tokens", "an integer of at least 0", 0 <= self.min_tokens < 2**31),
            ("temperature", "a number from 0 to 100", 0 <= self.temperature <= 100),
            ("top_p", "a number above 0, up to 1", 0 < self.top_p <= 1),
            ("top_k", "-1 or 0 for all tokens, or an integer of at least 1", -1 <= self.top_k < 2**31),
            ("min_p", "a number from 0 to 1", 0 <= self.min_p <= 1),
            ("typical_p", "a number above 0, up to 1", 0 < self.typical_p <= 1),
            ("repetition_penalty", "a number above 0, up to 100", 0 < self.repetition_penalty <= 100),
            ("presence_penalty", "a number from -2 to 2", -2 <= self.presence_penalty <= 2),
            ("frequency_penalty", "a number from -2 to 2", -2 <= self.frequency_penalty <= 2),
            ("seed", "an integer of 64 bits", self.seed is None or -(2**63) <= self.seed < 2**64),
            ("stop", "up to 64 non-empty strings", len(self.stop) <= 64 and all(self.stop)),
            (
                "stop_token_ids",
                "up to 1024 non-negative token ids",
                len(self.stop_token_ids) <= 1024 and all(0 <= token < 2**31 for token in self.stop_token_ids),
            ),
            *(
                (name, "an integer from 0 to 20", count is None or 0 <= count <= 20)
                for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs))
            ),
            *self._token_rules(),
            (
                "truncate_prompt_tokens",
                "-1 for as many as are allowed, or an integer of at least 1",
                self.truncate_prompt_tokens in (None, -1) or self.truncate_prompt_tokens in _COUNTS,
            ),
            (
                "truncation_side",
                "it with truncate_prompt_tokens only, or leave it out",
                self.truncation_side == "left" or self.truncate_prompt_tokens is not None,
            ),
        ]

    def _token_rules(self) -> list[tuple[str, str, bool]]:
        decay, words = self.exponential_decay_length_penalty, self.bad_words_token_ids
        return [
            (
                "logit_bias",
                f"up to {MOST_BIASES} token ids, each with a number from -100 to 100",
                len(self.logit_bias or ()) <= MOST_BIASES
                and all(token in _TOKENS and -100 <= bias <= 100 for token, bias in (self.logit_bias or {}).items()),
            ),
            ("allowed_token_ids", "at least one token id", _are_tokens(self.allowed_token_ids)),
            ("first_token_ids", "at least one token id", _are_tokens(self.first_token_ids)),
            ("bad_words", f"up to {MOST_BAD_WORDS} non-empty strings", _are_few(self.bad_words)),
            (
                "bad_words_token_ids",
                f"up to {2 * MOST_BAD_WORDS} non-empty lists of token ids",
                len(words) <= 2 * MOST_BAD_WORDS and all(word and _are_tokens(word) for word in words),
            ),
            (
                "exponential_decay_length_penalty",
                "[start, factor] with an integer of at least 0 and a number from 1 to 100",
                decay is None or (0 <= decay[0] < 2**31 and 1 <= decay[1] <= 100),
            ),
        ]


MOST_BIASES = 300
MOST_BAD_WORDS = 256
_TOKENS, _COUNTS = range(2**31), range(1, 2**31)


def _are_tokens(ids: list[int] | None) -> bool:
    return ids is None or (len(ids) > 0 and all(token in _TOKENS for token in ids))


def _are_few(words: list[str]) -> bool:
    return len(words) <= MOST_BAD_WORDS and all(words)
