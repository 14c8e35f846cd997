"""Answers of the native routes: whole, and as a stream of tokens."""

from typing import Any

import msgspec
import numpy as np

from lightllm.base.request import FinishReason
from lightllm.serving.api import errors
from lightllm.serving.api.logprobs import LEAST, PromptLogprobs
from lightllm.serving.api.openai import json
from lightllm.serving.api.service import Service
from lightllm.serving.records import Request, Tokens, Update

_FINISH = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TIMEOUT: "timeout"}


class TokenDetails(msgspec.Struct, frozen=True):
    """One output token. cumlogprob is the sum of logprobs up to it."""

    id: int
    text: str
    logprob: float
    cumlogprob: float
    special: bool
    count_output_tokens: int
    prompt_tokens: int


class Generated(msgspec.Struct, omit_defaults=True):
    """With several answers count_output_tokens, finish_reason and tokens are lists, an entry per answer."""

    generated_text: list[str]
    count_output_tokens: int | list[int]
    finish_reason: str | list[str]
    prompt_tokens: int
    tokens: list[Any] | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[list[int]] | None = None  # of each answer


def generated(service: Service, pairs: list[tuple[Request, Update]], *, wants_details: bool) -> Generated:
    details, answers = None, [answer for _, answer in pairs]
    if wants_details:
        details = [TokenNames(service, request).of(answer.tokens) for request, answer in pairs]
    counts = [answer.num_tokens for answer in answers]
    reasons = [_FINISH[answer.finish_reason] for answer in answers if answer.finish_reason is not None]
    one = len(answers) == 1
    return Generated(
        [answer.text for answer in answers],
        counts[0] if one else counts,
        reasons[0] if one else reasons,
        pairs[0][0].prompt_tokens,
        details[0] if one and details else details,
    )


class TokenNames:
    """Details of one request's tokens, in order."""

    def __init__(self, service: Service, request: Request):
        self._service, self._request = service, request
        self._count, self._sum = 0, 0.0

    def of(self, tokens: Tokens) -> list[TokenDetails]:
        """Tokens must carry logprobs."""
        assert tokens.logprobs is not None, "asked for with the request"
        logprobs = np.maximum(tokens.logprobs, LEAST).tolist()
        return [self._one(token, logprob) for token, logprob in zip(tokens.ids.tolist(), logprobs, strict=True)]

    def _one(self, token: int, logprob: float) -> TokenDetails:
        self._count += 1
        self._sum += logprob
        tokenizer = self._service.tokenizer
        return TokenDetails(
            token,
            self._service.token_text(token),
            logprob,
            self._sum,
            tokenizer is not None and tokenizer.is_special(token),
            self._count,
            self._request.prompt_tokens,
        )


class TokenStream:
    """`data:{"token": {...}, "generated_text": null, "finished", "finish_reason", "details": null}`, one per token.

    Text that several tokens make together comes with the last of them.
    """

    needs_tokens = True

    def __init__(self, service: Service, request: Request):
        self._names = TokenNames(service, request)
        self._last: TokenDetails | None = None

    def event(self, choice: int, update: Update) -> bytes:
        tokens = self._names.of(update.tokens) if len(update.tokens) else []
        if not tokens and self._last and (update.text or update.finish_reason is not None):
            tokens = [self._last]  # the end, or text, came after the token that it belongs to
        if not tokens:
            return b""
        self._last = tokens[-1]
        *before, last = tokens
        events = [_token_event(token, "", None) for token in before]
        finish = None if update.finish_reason is None else _FINISH[update.finish_reason]
        return b"".join([*events, _token_event(last, update.text, finish)])

    def end(self) -> bytes:
        return b""

    def failure(self, status: int, message: str) -> bytes:
        return errors.event(status, message)


def _token_event(token: TokenDetails, text: str, finish: str | None) -> bytes:
    return (
        b'data:{"token":{"id":%d,"text":%s,"logprob":%s,"cumlogprob":%s,"special":%s,"count_output_tokens":%d,'
        b'"prompt_tokens":%d},"generated_text":null,"finished":%s,"finish_reason":%s,"details":null}\n\n'
    ) % (
        token.id, json(text), json(token.logprob), json(token.cumlogprob), json(token.special),
        token.count_output_tokens, token.prompt_tokens, json(finish is not None), json(finish),
    )  # fmt: skip
