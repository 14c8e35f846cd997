"""Calls that take too long are given up, and the others do not wait for them."""

import time

import pytest

from lightllm.serving.grammar import watched
from lightllm.serving.grammar.engine import HopelessError
from lightllm.serving.grammar.watched import WatchedThreads


class Endless:
    """Takes the processor's time until it is let go."""

    def __init__(self):
        self.is_let = False

    def __call__(self):
        while not self.is_let:
            time.sleep(0)


@pytest.fixture
def endless():
    call = Endless()
    yield call
    call.is_let = True


def test_all_calls_are_made_once():
    threads, made = WatchedThreads(3, limit_s=5.0), []
    for _ in range(3):
        made.clear()
        assert threads.run([lambda i=i: made.append(i) for i in range(20)]) == [True] * 20
        assert sorted(made) == list(range(20))
    assert threads.run([]) == []


def test_one_that_takes_too_long_is_given_up_and_its_thread_replaced(endless):
    threads, made = WatchedThreads(1, limit_s=0.05), []
    calls = [endless, *(lambda i=i: made.append(i) for i in range(5))]
    assert threads.run(calls) == [False, True, True, True, True, True]
    assert made == list(range(5))
    endless.is_let = True
    assert threads.run([lambda: made.append(9)]) == [True]


def test_time_that_a_call_only_waits_is_not_counted():
    assert WatchedThreads(2, limit_s=0.05).run([lambda: time.sleep(0.2)] * 2) == [True, True]


def test_one_that_raises_has_failed_alone():
    assert WatchedThreads(1, limit_s=5.0).run([lambda: 1 / 0, lambda: None]) == [False, True]


def test_threads_without_end_are_reported(endless, monkeypatch):
    monkeypatch.setattr(watched, "_MOST_LOST", 1)
    threads = WatchedThreads(1, limit_s=0.02)
    assert threads.run([endless]) == [False]
    with pytest.raises(HopelessError, match="2 masks"):
        threads.run([endless])
    endless.is_let = True
