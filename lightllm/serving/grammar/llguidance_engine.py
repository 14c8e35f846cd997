"""Grammars enforced by llguidance, which refuses what it cannot enforce and bounds what a step may cost."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer

from lightllm.base.grammar import Grammar
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.lark import source_of

_MOST_THREADS = 8
# Steps of the engine: each bounds a compilation to about 100 ms, or a mask to some 20 ms.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
_LONGEST_REASON = 500  # characters


class LlguidanceMatcher:
    def __init__(self, matcher: LLMatcher):
        self.inner = matcher

    def consume(self, token: int) -> bool:
        return self.inner.consume_token(token)

    def rollback(self, count: int) -> None:
        self.inner.rollback(count)


class LlguidanceGrammar:
    """Keeps a matcher that nobody uses; what is copied from it shares what it has learned of the grammar."""

    num_bytes = 0  # _LIMITS bound it

    def __init__(self, matcher: LLMatcher):
        self._first = matcher

    def new_matcher(self) -> LlguidanceMatcher:
        return LlguidanceMatcher(self._first.deep_copy())


class LlguidanceEngine:
    """An engine (see engine.py) for one tokenizer."""

    def __init__(self, tokenizer_json: str, *, vocab: int, eos_ids: Sequence[int], added_tokens: Mapping[str, int]):
        self._tokenizer = LLTokenizer(tokenizer_json, n_vocab=vocab, eos_token=list(eos_ids))
        # Ends of answers are no text: a grammar that names them would end before it is satisfied.
        self._special_tokens = {
            name: token
            for name, token in added_tokens.items()
            if self._tokenizer.is_special_token(token) and token not in eos_ids
        }
        self._executor = LLExecutor(num_threads=max(1, min(_MOST_THREADS, (os.cpu_count() or 2) // 2)))

    def compile(self, grammar: Grammar) -> LlguidanceGrammar:
        source = source_of(grammar, self._special_tokens)
        is_wrong, messages = LLMatcher.validate_grammar_with_warnings(source, self._tokenizer, limits=_LIMITS)
        if is_wrong or messages:
            raise UnenforceableError("; ".join(messages)[:_LONGEST_REASON])
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise UnenforceableError(matcher.get_error()[:_LONGEST_REASON])
        return LlguidanceGrammar(matcher)

    def fill(self, matchers: Sequence[LlguidanceMatcher], lines: Sequence[int], masks: np.ndarray) -> list[bool]:
        inner = [matcher.inner for matcher in matchers]
        count, words = masks.shape
        self._executor.unsafe_compute_mask_ptr(
            list(zip(inner, lines, strict=True)), masks.ctypes.data, words * 4, count
        )
        return [not matcher.is_error() for matcher in inner]
