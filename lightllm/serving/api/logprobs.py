"""Log probabilities as the OpenAI API words them: an entry per output token, the one that ended the answer included."""

import codecs
from collections.abc import Iterable
from functools import partial

import msgspec
import numpy as np

from lightllm.serving.api.service import Service
from lightllm.serving.records import Tokens

# JSON has no -inf; this is what other servers send for a token that was not possible.
LEAST = -9999.0


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(msgspec.Struct, frozen=True):
    """`token` is readable, `bytes` is exact: a token may be part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprob]


class CompletionLogprobs(msgspec.Struct):
    """Four lists of one length. `text_offset` counts characters of the choice's text before each token.

    Of the first token of a prompt nothing is known.
    """

    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []
    text_offset: list[int] = []

    def extend(self, other: "CompletionLogprobs") -> None:
        self.tokens += other.tokens
        self.token_logprobs += other.token_logprobs
        self.top_logprobs += other.top_logprobs
        self.text_offset += other.text_offset


def for_chat(service: Service, tokens: Tokens, *, as_ids: bool = False) -> ChatLogprobs:
    """Tokens must carry logprobs. as_ids: they are named by their ids."""
    logprobs, top_ids, top_logprobs = _lists(tokens)
    return ChatLogprobs(
        [
            TokenLogprob(
                *_named(service, token, logprob, as_ids),
                [TopLogprob(*_named(service, *pair, as_ids)) for pair in zip(ids, values, strict=True)],
            )
            for token, logprob, ids, values in zip(tokens.ids.tolist(), logprobs, top_ids, top_logprobs, strict=True)
        ]
    )


def _named(service: Service, token: int, logprob: float, as_id: bool) -> tuple[str, float, list[int] | None]:
    tokenizer = service.tokenizer
    return (
        service.token_text(token, as_id=as_id),
        logprob,
        None if tokenizer is None else list(tokenizer.token_bytes(token)),
    )


class PromptLogprob(msgspec.Struct, frozen=True):
    """Of one token at one place of a prompt. `rank` is 1 for the likeliest, null if it is none of those asked for."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]  # null for the first token; by token: the prompt's and others


def for_prompt(service: Service, prompt: Tokens, count: int) -> PromptLogprobs:
    """A prompt's tokens from the second on, and the `count` likeliest at each place; more of these may be known."""
    logprobs, top_ids, top_logprobs = _lists(prompt)
    places: PromptLogprobs = [None]
    for token, logprob, ids, values in zip(prompt.ids.tolist(), logprobs, top_ids, top_logprobs, strict=True):
        likeliest = list(zip(ids[:count], values[:count], range(1, count + 1), strict=True))
        known = {token: (logprob, None)} | {other: (value, rank) for other, value, rank in likeliest}
        places.append({one: PromptLogprob(*about, service.token_text(one)) for one, about in known.items()})
    return places


class CompletionForm:
    """Of one choice, whose text grows token by token: knows at which character it is."""

    def __init__(self, service: Service, *, start: int, skip_special_tokens: bool, as_ids: bool):
        """as_ids: tokens are named by their ids."""
        self._name = partial(service.token_text, as_id=as_ids)
        self._service, self._skips, self._offset = service, skip_special_tokens, start
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def of_prompt(self, text: str, first: int, rest: Tokens, count: int) -> CompletionLogprobs:
        """The tokens of an echoed prompt: the first and the rest, which must carry the logprobs of `count` likeliest
        tokens or more. They end where the prompt's text does."""
        ids = [first, *rest.ids.tolist()]
        logprobs, top_ids, top_logprobs = _lists(rest)
        offsets, self._offset = self._offsets_in(text, ids), len(text)
        return CompletionLogprobs(
            [self._name(token) for token in ids],
            [None, *logprobs],
            [None, *self._likeliest(ids[1:], logprobs, [each[:count] for each in top_ids], top_logprobs)],
            offsets,
        )

    def _offsets_in(self, text: str, ids: list[int]) -> list[int]:
        """Where each token of a prompt begins in its text, which may lack special tokens that were put before it."""
        offsets, at, tokenizer = [], 0, self._service.tokenizer
        for token in ids:
            offsets.append(min(at, len(text)))
            if tokenizer is not None:
                piece = self._decode(tokenizer.token_bytes(token))
                at += len(piece) if not tokenizer.is_special(token) or text.startswith(piece, at) else 0
        return offsets

    def of(self, tokens: Tokens) -> CompletionLogprobs:
        """The next tokens of the choice. They must carry logprobs."""
        logprobs, top_ids, top_logprobs = _lists(tokens)
        ids = tokens.ids.tolist()
        return CompletionLogprobs(
            [self._name(token) for token in ids],
            [*logprobs],
            [*self._likeliest(ids, logprobs, top_ids, top_logprobs)],
            [self._advance(token) for token in ids],
        )

    def _likeliest(
        self, ids: list[int], logprobs: list[float], top_ids: list[list[int]], top_logprobs: list[list[float]]
    ) -> Iterable[dict[str, float]]:
        """At each place: the likeliest tokens and the one that is there."""
        for chosen, own, top, values in zip(ids, logprobs, top_ids, top_logprobs, strict=True):
            names = map(self._name, [*top, chosen])
            yield _by_name(zip(names, [*values[: len(top)], own], strict=True))

    def _advance(self, token: int) -> int:
        """Where the token begins; moves on to its end."""
        at, tokenizer = self._offset, self._service.tokenizer
        if tokenizer is not None and not (self._skips and tokenizer.is_special(token)):
            self._offset += len(self._decode(tokenizer.token_bytes(token)))
        return at


def _by_name(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Likeliest first. Of tokens that read the same the first counts."""
    found: dict[str, float] = {}
    for name, logprob in pairs:
        found.setdefault(name, logprob)
    return found


def _lists(tokens: Tokens) -> tuple[list[float], list[list[int]], list[list[float]]]:
    assert tokens.logprobs is not None, "asked for with the request"
    assert tokens.top_ids is not None, "comes with the logprobs"
    assert tokens.top_logprobs is not None, "comes with the logprobs"
    return _finite(tokens.logprobs), tokens.top_ids.tolist(), _finite(tokens.top_logprobs)


def _finite(values: np.ndarray) -> list:
    return np.maximum(np.nan_to_num(values, nan=LEAST), LEAST).tolist()
