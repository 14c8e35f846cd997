"""Grammars are compiled once, in threads, within limits."""

import threading
from dataclasses import dataclass

import pytest

from lightllm.base.grammar import ConstString, encode
from lightllm.serving.grammar import library
from lightllm.serving.grammar.engine import UnenforceableError
from lightllm.serving.grammar.library import HopelessError, Library, Refusal


@dataclass(frozen=True)
class Made:
    text: str
    num_bytes: int = 10


class Engine:
    """Compiles to what says its text; "slow" ones when they are let, "wrong" ones never."""

    def __init__(self):
        self.compiled, self.let = [], threading.Event()

    def compile(self, grammar):
        self.compiled.append(grammar.value)
        if grammar.value.startswith("slow"):
            assert self.let.wait(10)
        if grammar.value == "wrong":
            raise UnenforceableError("it is wrong")
        if grammar.value == "broken":
            raise ZeroDivisionError
        return Made(grammar.value)

    def fill(self, matchers, lines, masks):
        raise AssertionError("not asked here")


class Bench:
    def __init__(self, load=None):
        self.now, self.engine, self.woken, self.outcomes = 0.0, Engine(), threading.Semaphore(0), []
        self.library = Library(load or (lambda: self.engine), wake=self.woken.release, clock=lambda: self.now)

    def want(self, text):
        self.library.want(encode(ConstString(text)), self.outcomes.append)

    def finish(self, jobs=1):
        for _ in range(jobs):
            assert self.woken.acquire(timeout=10)
        self.library.take_finished()


def test_what_was_compiled_is_there_at_once_and_compiled_once():
    bench = Bench()
    bench.want("a")
    bench.want("a")
    assert bench.outcomes == []
    bench.finish()
    bench.want("a")
    assert bench.outcomes == [Made("a")] * 3
    assert bench.engine.compiled == ["a"]
    assert not bench.library.is_busy


@pytest.mark.parametrize(("name", "most"), [("_MOST_KEPT", 2), ("_MOST_BYTES", 29)])
def test_the_least_recently_used_is_forgotten(monkeypatch, name, most):
    monkeypatch.setattr(library, name, most)
    bench = Bench()
    for text in ("a", "b", "a", "c", "a", "b"):
        bench.want(text)
        while bench.library.is_busy:
            bench.finish()
    assert bench.engine.compiled == ["a", "b", "c", "b"]


def test_refusals_say_why_and_are_remembered():
    bench = Bench()
    for text in ("wrong", "broken"):
        bench.want(text)
        bench.finish()
        bench.want(text)
    assert bench.outcomes[0] == bench.outcomes[1] == Refusal("it is wrong")
    assert "ZeroDivisionError" in bench.outcomes[2].reason
    assert bench.engine.compiled == ["wrong", "broken"]


def test_an_engine_that_cannot_be_had_is_no_fault_of_the_grammar_and_tried_again():
    def load():
        loads.append(1)
        raise ImportError("no module named engine")

    loads = []
    bench = Bench(load)
    for _ in range(2):
        bench.want("a")
        bench.finish()
    assert {outcome.is_ours for outcome in bench.outcomes} == {True}
    assert "no module named engine" in bench.outcomes[0].reason
    assert len(loads) == 2


def test_what_takes_too_long_is_refused_while_others_are_served():
    bench = Bench()
    bench.want("slow")
    bench.want("fast")
    bench.finish()
    assert bench.outcomes == [Made("fast")]
    bench.library.expire()
    assert len(bench.outcomes) == 1
    bench.now = library.LONGEST_S + 1
    bench.library.expire()
    assert "longer than 5 s" in bench.outcomes[1].reason
    bench.want("slow")
    assert bench.outcomes[2] == bench.outcomes[1]
    bench.engine.let.set()
    bench.finish()
    assert len(bench.outcomes) == 3


def test_a_thread_that_is_lost_for_good_is_reported():
    bench = Bench()
    bench.want("slow")
    bench.want("fast")
    bench.finish()
    bench.now = 61.0
    with pytest.raises(HopelessError):
        bench.library.expire()
    bench.engine.let.set()
