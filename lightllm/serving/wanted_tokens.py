"""What a request wants of single tokens, checked against the vocabulary and packed for the workers."""

from collections.abc import Iterable, Sequence

from lightllm.base import token_words
from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.base.request_table import NO_TOKEN_WORDS, TokenWords
from lightllm.base.token_words import MOST_BIAS_WORDS, Bias, mask_of

_NEVER = float("-inf")


def words_of(params: SamplingParams, *, vocabulary: int, eos_ids: Sequence[int]) -> TokenWords:
    """Raises RequestError for tokens that do not exist, and for demands that no token meets.

    eos_ids: tokens that end an answer of themselves, with the request's ignore_eos or without.
    """
    _check_all(params, vocabulary)
    decay, allowed, first = params.exponential_decay_length_penalty, params.allowed_token_ids, params.first_token_ids
    biases: list[Bias] = [((token,), bias) for token, bias in (params.logit_bias or {}).items()]
    biases += [(word, _NEVER) for word in params.bad_words_token_ids]
    ends: Sequence[int] = []
    if decay is not None and decay[1] > 1:
        if params.ignore_eos:
            raise RequestError(
                "exponential_decay_length_penalty has no effect with ignore_eos; leave one of them out",
                param="exponential_decay_length_penalty",
            )
        ends = sorted({token for token in eos_ids if token < vocabulary})
    if not biases and not ends and allowed is None and first is None:
        return NO_TOKEN_WORDS
    if first is not None and allowed is not None:
        first = sorted(set(first) & set(allowed))
    stops = {*params.stop_token_ids, *([] if params.ignore_eos else eos_ids)} if params.min_tokens else set()
    for name, tokens in (("first_token_ids", first), ("allowed_token_ids", allowed)):
        _check_choice(name, tokens, {word[-1] for word in params.bad_words_token_ids} | stops)
    packed = token_words.pack(
        biases=biases,
        ends=ends,
        mask=None if allowed is None else mask_of(allowed, vocabulary),
        first_mask=None if first is None else mask_of(first, vocabulary),
    )
    if packed.num_bias_words > MOST_BIAS_WORDS:
        raise RequestError(
            f"bad_words have {sum(map(len, params.bad_words_token_ids))} tokens, which are too many; give fewer",
            param="bad_words",
        )
    return packed


def _check_all(params: SamplingParams, vocabulary: int) -> None:
    _check("logit_bias", params.logit_bias or (), vocabulary)
    _check("stop_token_ids", params.stop_token_ids, vocabulary)
    _check("allowed_token_ids", params.allowed_token_ids or (), vocabulary)
    _check("first_token_ids", params.first_token_ids or (), vocabulary)
    for word in params.bad_words_token_ids:
        _check("bad_words_token_ids", word, vocabulary)


def _check(name: str, tokens: Iterable[int], vocabulary: int) -> None:
    if (largest := max(tokens, default=0)) >= vocabulary:
        raise RequestError(
            f"{name}: token id {largest} is not in the vocabulary; use 0 to {vocabulary - 1}", param=name
        )


def _check_choice(name: str, tokens: Sequence[int] | None, forbidden: set[int]) -> None:
    """Raises RequestError if some moment may leave none of the tokens that are allowed."""
    if tokens is not None and forbidden.issuperset(tokens):
        raise RequestError(
            f"{name} may leave no token to sample: bad_words and min_tokens forbid all of them; allow others",
            param=name,
        )
