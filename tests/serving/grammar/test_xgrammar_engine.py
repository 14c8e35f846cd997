"""Grammars that cost xgrammar too much hurt nobody but their sender."""

import numpy as np
import pytest

from lightllm.base.grammar import ContextFree, JsonSchema, Regex
from lightllm.base.masks import words_of
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.watched import WatchedThreads
from tests.serving.grammar.engines import VOCAB, allowed, engine, needs_xgrammar, tokenizer

pytestmark = needs_xgrammar

AMBIGUOUS = ContextFree('root ::= s\ns ::= s s | "a" | ""')  # the time for a token grows with the cube of the tokens


@pytest.fixture
def threads(monkeypatch):
    threads = WatchedThreads(2, limit_s=0.1)
    monkeypatch.setattr(engine("xgrammar"), "_threads", threads)
    yield
    for thread in threads._lost:  # in the library's code, which must not be torn down around it
        thread.join()


def test_a_mask_that_takes_too_long_fails_its_own_answer_and_those_of_the_same_grammar(threads):
    xgrammar, masks = engine("xgrammar"), np.zeros((2, words_of(VOCAB)), np.int32)
    slow, fast = xgrammar.compile(AMBIGUOUS), xgrammar.compile(Regex("ab"))
    (a,) = tokenizer().encode("a", add_special_tokens=False).ids
    matchers = [slow.new_matcher(), fast.new_matcher()]
    for _ in range(220):
        assert matchers[0].consume(a)
    assert xgrammar.fill(matchers, [0, 1], masks) == [False, True]
    assert not masks[0].any()
    assert a in allowed(masks[1])
    assert not matchers[0].consume(a)
    assert xgrammar.fill([matchers[0], slow.new_matcher(), matchers[1]], [0, 0, 1], masks) == [False, False, True]


def test_a_grammar_whose_masks_are_slow_from_the_beginning_is_refused(monkeypatch):
    monkeypatch.setattr("lightllm.serving.grammar.xgrammar_engine._SLOW_S", 1e-7)
    with pytest.raises(UnenforceableError, match="maxLength.*llguidance"):
        engine("xgrammar").compile(Regex("a{1,900}"))


def test_a_grammar_that_is_large_once_compiled_is_refused(monkeypatch):
    monkeypatch.setattr("lightllm.serving.grammar.xgrammar_engine._MOST_BYTES", 1000)
    with pytest.raises(UnenforceableError, match="too large"):
        engine("xgrammar").compile(JsonSchema({"type": "object"}))


def test_a_grammar_that_takes_too_long_to_compile_is_refused(monkeypatch):
    monkeypatch.setattr("lightllm.serving.grammar.xgrammar_engine.LONGEST_S", 0.2)
    with pytest.raises(UnenforceableError, match="longer than"):
        engine("xgrammar").compile(JsonSchema({"enum": [f"value {i}" for i in range(100_000)]}))
