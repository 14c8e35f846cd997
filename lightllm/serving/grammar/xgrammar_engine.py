"""Grammars enforced by xgrammar. It loads torch and transformers, so only the process `grammar` may load it.

It has no bounds of its own: some grammars take minutes to compile, or for a single mask. So they are compiled in a
child process that is ended in time, and masks are computed in threads that are given up where one takes too long.
"""

import functools
import json
import os
import random
import time
from collections.abc import Mapping, Sequence

import numpy as np
import xgrammar
from tokenizers import Tokenizer

from lightllm.base.grammar import Grammar
from lightllm.base.masks import words_of
from lightllm.serving.grammar.engine import LONGEST_S, UnenforceableError
from lightllm.serving.grammar.forked import ForkedError, in_child
from lightllm.serving.grammar.watched import WatchedThreads
from lightllm.serving.grammar.xgrammar_tags import SPECIAL, tag_of

_MOST_THREADS = 8
_MOST_BYTES = 64 << 20  # of a compiled grammar
_LIMIT_S = 0.06  # of processor time for one mask and the token before it: others of the same step wait as long
_PROBE_TOKENS, _PROBE_S, _SLOW_S = 40, 1.0, 0.03  # how many masks are tried, for how long, and what each may take
_LONGEST_REASON = 500  # characters


class XgrammarMatcher:
    """Takes tokens when the next mask is asked for: only then is somebody watching how long it takes."""

    def __init__(self, compiled: "XgrammarGrammar"):
        self._compiled, self._inner = compiled, xgrammar.GrammarMatcher(compiled.inner)
        self._waiting: list[int] = []
        self._mask = np.zeros((1, compiled.words), np.int32)
        self.has_failed = compiled.is_too_slow

    def consume(self, token: int) -> bool:
        self._waiting.append(token)
        return not self.has_failed

    def rollback(self, count: int) -> None:
        taken = min(count, len(self._waiting))
        del self._waiting[len(self._waiting) - taken :]
        if count > taken:
            self._inner.rollback(count - taken)

    def compute(self) -> None:
        """Takes the tokens, and keeps the mask of the next."""
        waiting, self._waiting = self._waiting, []
        # After its end it takes no token; a step may run once more for an answer that has ended.
        if not all(self._inner.is_terminated() or self._inner.accept_token(token) for token in waiting):
            self.has_failed = True
        elif self._inner.is_terminated():
            self._mask[:] = self._compiled.ends
        else:
            self._inner.fill_next_token_bitmask(self._mask, 0)

    def result(self, *, is_over: bool) -> np.ndarray | None:
        """The mask [words] that was computed; None if there is none. is_over: whether `compute` has returned."""
        if not is_over:
            self.has_failed = self._compiled.is_too_slow = True  # a thread may still be at it: nothing here is read
        return None if self.has_failed else self._mask[0]


class XgrammarGrammar:
    """ends [words] allows the ends of an answer. `is_too_slow`: one of its masks took too long, no others are tried."""

    def __init__(self, inner: xgrammar.CompiledGrammar, ends: np.ndarray):
        self.inner, self.ends, self.words, self.is_too_slow = inner, ends, len(ends), False
        self.num_bytes = inner.memory_size_bytes

    def new_matcher(self) -> XgrammarMatcher:
        return XgrammarMatcher(self)


class XgrammarEngine:
    """An engine (see engine.py) for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, vocab: int, eos_ids: Sequence[int], special_tokens: Mapping[str, int]):
        self._tokens = _tokens(tokenizer, vocab=vocab, eos_ids=eos_ids, special=list(special_tokens.values()))
        # Ends of answers are no text: a grammar that names them would end before it is satisfied.
        self._special_tokens = {
            name: token for name, token in special_tokens.items() if token not in eos_ids and token < vocab
        }
        self._ends = np.zeros(words_of(vocab), np.int32)
        for token in eos_ids:
            self._ends[token // 32] |= np.array(1 << (token % 32), np.uint32).astype(np.int32)
        self._threads_per_grammar = max(1, min(_MOST_THREADS, (os.cpu_count() or 2) // 2))
        self._threads = WatchedThreads(max(2, self._threads_per_grammar), limit_s=_LIMIT_S)

    def compile(self, grammar: Grammar) -> XgrammarGrammar:
        source = json.dumps(tag_of(grammar, self._special_tokens))
        try:
            compiled = in_child(functools.partial(self._compiled, source), timeout_s=LONGEST_S)
        except ForkedError as error:
            raise UnenforceableError(_reason(str(error))) from None
        return XgrammarGrammar(xgrammar.CompiledGrammar.deserialize_json(compiled.decode(), self._tokens), self._ends)

    def fill(self, matchers: Sequence[XgrammarMatcher], lines: Sequence[int], masks: np.ndarray) -> list[bool]:
        fit = [matcher for matcher in matchers if not matcher.has_failed]
        over = dict(zip(map(id, fit), self._threads.run([matcher.compute for matcher in fit]), strict=True))
        filled: list[bool] = []
        for matcher, line in zip(matchers, lines, strict=True):
            mask = matcher.result(is_over=over.get(id(matcher), True))
            if mask is not None:
                masks[line] = mask
            filled.append(mask is not None)
        return filled

    def _compiled(self, source: str) -> bytes:
        """Runs in a child process. Raises UnenforceableError or what xgrammar does."""
        compiler = xgrammar.GrammarCompiler(self._tokens, max_threads=self._threads_per_grammar, cache_enabled=False)
        compiled = compiler.compile_structural_tag(source)
        if compiled.memory_size_bytes > _MOST_BYTES:
            raise UnenforceableError(f"it is too large: compiled it has more than {_MOST_BYTES >> 20} MiB")
        _probe(compiled, words=len(self._ends))
        return compiled.serialize_json().encode()


def _tokens(
    tokenizer: Tokenizer, *, vocab: int, eos_ids: Sequence[int], special: Sequence[int]
) -> xgrammar.TokenizerInfo:
    """What each token is in bytes. Of special ones this is nothing that is in texts."""
    about = xgrammar.TokenizerInfo._detect_metadata_from_hf(tokenizer.to_str())
    names = [""] * vocab
    for name, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token < vocab:
            names[token] = name
    named = xgrammar.TokenizerInfo(names, about["vocab_type"], vocab_size=vocab, stop_token_ids=list(eos_ids))
    texts = named.decoded_vocab
    for token in special:
        if token < vocab:
            texts[token] = SPECIAL
    return xgrammar.TokenizerInfo(texts, vocab_size=vocab, stop_token_ids=list(eos_ids))


def _probe(compiled: xgrammar.CompiledGrammar, *, words: int) -> None:
    """Raises UnenforceableError if there is nothing that it allows, or masks take long: tries some answers."""
    draw, mask = random.Random(0), np.zeros((1, words), np.int32)
    began = started = time.thread_time()
    matcher = xgrammar.GrammarMatcher(compiled)
    for _ in range(_PROBE_TOKENS):
        matcher.fill_next_token_bitmask(mask, 0)
        if time.thread_time() - started > _SLOW_S:
            raise UnenforceableError(
                f"a mask of tokens takes xgrammar longer than {1e3 * _SLOW_S:g} ms; make it simpler (a shorter "
                "maxLength, fewer repetitions), or start the server with --output_constraint_mode=llguidance"
            )
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        if not len(allowed):
            raise UnenforceableError("nothing satisfies it")
        started = time.thread_time()
        matcher.accept_token(int(draw.choice(allowed)))
        if matcher.is_terminated():
            matcher.reset()
        if time.thread_time() - began > _PROBE_S:
            return


def _reason(text: str) -> str:
    """What xgrammar says, without the places in its own source."""
    return text.split("]", 1)[-1].split(": ", 1)[-1].strip()[:_LONGEST_REASON] if text.startswith("[") else text.strip()
