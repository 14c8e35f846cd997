"""Answers in the form of text-generation-inference: whole, and as a stream of tokens."""

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from lightllm.base.request import FinishReason
from lightllm.serving.api import errors
from lightllm.serving.api.logprobs import LEAST
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service
from lightllm.serving.api.tgi.wording import DIALECT
from lightllm.serving.records import Request, Tokens, Update


class TgiToken(msgspec.Struct, frozen=True):
    """A token of the answer, or one that could have been in its place."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(msgspec.Struct, frozen=True):
    """A token of the prompt. Of the first one no logprob is known."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(msgspec.Struct, kw_only=True):
    """A continuation. `finish_reason`: length, eos_token or stop_sequence; `prefill`: the prompt, if asked for."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[TgiToken]
    top_tokens: list[list[TgiToken]] | UnsetType = UNSET


class TgiDetails(msgspec.Struct, kw_only=True):
    """Of the best continuation; the others are `best_of_sequences`."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[TgiToken]
    top_tokens: list[list[TgiToken]] | UnsetType = UNSET
    best_of_sequences: list[BestOfSequence] | UnsetType = UNSET


class TgiGenerated(msgspec.Struct):
    generated_text: str
    details: TgiDetails | UnsetType = UNSET


class TgiStreamDetails(msgspec.Struct):
    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class TgiEvent(msgspec.Struct, kw_only=True):
    """A token; with the last one come the whole text and, if asked for, details."""

    index: int
    token: TgiToken
    generated_text: str | None = None
    details: TgiStreamDetails | None = None
    top_tokens: list[TgiToken] | UnsetType = UNSET


class Wording:
    """How a request's answers are told: `prefix` goes before each text, `top` likeliest tokens beside each token."""

    def __init__(self, service: Service, *, prefix: str, top: int, seed: int | None, has_details: bool):
        self._service, self.seed, self.has_details = service, seed, has_details
        self.prefix, self.top = prefix, top

    def sequence(self, request: Request, answer: Update, prefill: list[PrefillToken]) -> BestOfSequence:
        """A whole continuation. Its tokens must carry logprobs."""
        tokens = answer.tokens
        return BestOfSequence(
            generated_text=self.prefix + answer.text,
            finish_reason=finish(request, answer),
            generated_tokens=answer.num_tokens,
            seed=self.seed,
            prefill=prefill,
            tokens=self.tokens(tokens),
            top_tokens=self.top_tokens(tokens) if self.top else UNSET,
        )

    def tokens(self, tokens: Tokens) -> list[TgiToken]:
        assert tokens.logprobs is not None, "asked for with the request"
        return self._tokens(tokens.ids, tokens.logprobs)

    def top_tokens(self, tokens: Tokens) -> list[list[TgiToken]]:
        """The likeliest at each place."""
        assert tokens.top_ids is not None, "asked for with the request"
        assert tokens.top_logprobs is not None, "comes with the ids"
        return [
            self._tokens(ids[: self.top], logprobs[: self.top])
            for ids, logprobs in zip(tokens.top_ids, tokens.top_logprobs, strict=True)
        ]

    def prefill(self, first: int, rest: Tokens) -> list[PrefillToken]:
        """The tokens of the prompt."""
        known = [PrefillToken(token.id, token.text, token.logprob) for token in self.tokens(rest)]
        return [PrefillToken(first, self._service.token_text(first), None), *known]

    def _tokens(self, ids: np.ndarray, logprobs: np.ndarray) -> list[TgiToken]:
        tokenizer, values = self._service.tokenizer, np.maximum(logprobs, LEAST).tolist()
        return [
            TgiToken(
                token, self._service.token_text(token), logprob, tokenizer is not None and tokenizer.is_special(token)
            )
            for token, logprob in zip(ids.tolist(), values, strict=True)
        ]


def finish(request: Request, answer: Update) -> str:
    if answer.finish_reason is not FinishReason.STOP:
        return "length"
    return "eos_token" if answer.stop_reason(request) is None else "stop_sequence"


def whole(wording: Wording, sequences: list[BestOfSequence]) -> TgiGenerated:
    """`sequences`: the best first."""
    best, *others = sequences
    answer = TgiGenerated(best.generated_text)
    if wording.has_details:
        answer.details = TgiDetails(
            finish_reason=best.finish_reason,
            generated_tokens=best.generated_tokens,
            seed=best.seed,
            prefill=best.prefill,
            tokens=best.tokens,
            top_tokens=best.top_tokens,
            best_of_sequences=others or UNSET,
        )
    return answer


class TgiStream:
    """An event for each token. Text that several tokens make together comes with the last of them."""

    needs_tokens = True

    def __init__(self, wording: Wording, request: Request):
        self._wording, self._request = wording, request
        self._text: list[str] = []
        self._count = 0
        self._held: TgiEvent | None = None  # until it is known whether it is the last one

    def event(self, choice: int, update: Update) -> bytes:
        self._text.append(update.text)
        events = [] if self._held is None else [self._held]
        if len(update.tokens):
            events += self._events(update.tokens)
        if events:
            last = events[-1]
            said = last.token.text if last is self._held else ""
            token = msgspec.structs.replace(last.token, text=said + update.text)
            events[-1] = self._held = msgspec.structs.replace(last, token=token)
        if update.finish_reason is not None:
            return b"".join(map(_event, [*events[:-1], self._ended(events[-1], update)])) if events else b""
        return b"".join(map(_event, events[:-1]))

    def _events(self, tokens: Tokens) -> list[TgiEvent]:
        """Without text as yet."""
        top = self._wording.top_tokens(tokens) if self._wording.top else [UNSET] * len(tokens)
        events = []
        for token, likeliest in zip(self._wording.tokens(tokens), top, strict=True):
            self._count += 1
            bare = msgspec.structs.replace(token, text="")
            events.append(TgiEvent(index=self._count, token=bare, top_tokens=likeliest))
        return events

    def _ended(self, last: TgiEvent, update: Update) -> TgiEvent:
        last.generated_text = self._wording.prefix + "".join(self._text)
        if self._wording.has_details:
            reason, seed = finish(self._request, update), self._wording.seed
            last.details = TgiStreamDetails(reason, update.num_tokens, seed, self._request.prompt_tokens)
        return last

    def end(self) -> bytes:
        return b""

    def failure(self, status: int, message: str) -> bytes:
        return b"data:%s\n\n" % errors.encoded(status, message, dialect=DIALECT)


def _event(event: TgiEvent) -> bytes:
    return b"data:%s\n\n" % json(event)
