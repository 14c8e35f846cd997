"""Masks are ordered when the token before is known, and waited for, but not for ever."""

import numpy as np
import pytest

from lightllm.base.masks import ORDER, UNKNOWN, MaskMemory
from lightllm.base.metrics import Metrics
from lightllm.base.step import FAILED, ROW, StepResult
from lightllm.compute.execution.grammar_masks import GrammarMasks
from tests.compute.execution.plans import Run, decodes, plan

VOCAB, ROWS = 40, 4
TOKENS = np.array([0, 33, 34, 3])  # that rows sample


class Makers:
    """Answers orders when they are waited for: the first word of the mask is the serial number."""

    def __init__(self, memory):
        self.memory, self.orders, self.answered, self.is_lost, self.fails = memory, [], 0, False, set()

    def send(self, orders):
        self.orders += [dict(zip(ORDER.names, order, strict=True)) for order in orders.tolist()]

    def wait(self, seconds):
        if self.is_lost:
            self.is_lost = False
            return True
        for order in self.orders[self.answered :]:
            self.memory.masks[order["line"]] = order["serial"], -1
            sign = -1 if order["index"] in self.fails else 1
            self.memory.answers[order["line"]] = sign * order["serial"]
        self.answered = len(self.orders)
        return False


class Bench:
    def __init__(self, timeout_s=5.0):
        self.memory = MaskMemory(MaskMemory.create(lines=ROWS, vocab=VOCAB), lines=ROWS, vocab=VOCAB)
        self.makers, self.metrics, self.num_caught_up = Makers(self.memory), Metrics(Metrics.create(1), 0), 0
        self.masks = GrammarMasks(
            ROWS, self.memory, self.makers, timeout_s=timeout_s, metrics=self.metrics, catch_up=self.catch_up
        )

    def catch_up(self):
        self.num_caught_up += 1

    def begin(self, *rows, num_output=0):
        begins = np.zeros(len(rows), ROW)
        begins["row"], begins["index"], begins["generation"] = rows, [10 + row for row in rows], 7
        begins["has_grammar"], begins["num_output"] = True, num_output
        self.masks.begin(begins)

    def sample(self, rows, step):
        """What a step of decodes may sample; its result."""
        one = decodes(rows, [5] * len(rows), rows)
        one.step = step
        allowed = self.masks.of(one, np.arange(len(rows)))
        return allowed, result(step, TOKENS[rows])


def result(step, tokens):
    none = np.zeros(0, np.float32)
    return StepResult(
        step=step, tokens=np.array(tokens, np.int32), logprobs=none, top_tokens=np.zeros((0, 0), np.int32),
        top_logprobs=none.reshape(0, 0), seconds=0.0, next_was_ready=False,
    )  # fmt: skip


@pytest.fixture
def bench():
    return Bench()


def test_steps_without_grammars_wait_for_nothing(bench):
    begins = np.zeros(1, ROW)
    bench.masks.begin(begins)
    allowed, sampled = bench.sample([0], 1)
    bench.masks.note(sampled)
    assert allowed is None
    assert bench.makers.orders == []
    assert bench.num_caught_up == 0
    assert bench.metrics.total("mask_waits") == 0


def test_each_token_orders_the_next_mask(bench):
    bench.begin(2, num_output=3)
    assert bench.makers.orders == [
        {"line": 2, "index": 12, "generation": 7, "position": 3, "token": UNKNOWN, "serial": 1}
    ]
    for step in (1, 2):
        allowed, sampled = bench.sample([0, 2], step)
        assert allowed.which.tolist() == [1]
        assert allowed.masks.tolist() == [[step, -1]]
        bench.masks.note(sampled)
        order = bench.makers.orders[-1]
        assert (order["position"], order["token"], order["serial"]) == (3 + step, 34, 1 + step)
    assert bench.num_caught_up == 2


def test_only_sequences_that_sample_wait(bench):
    bench.begin(1, 3)
    part = plan(Run(1, 0, [5, 6], [1, 2], samples=False), Run(3, 0, [5], [3], samples=True))
    which = np.flatnonzero(part.samples)
    assert bench.masks.of(part, which).which.tolist() == [0]


def test_a_mask_that_is_none_fails_its_sequence_alone(bench):
    bench.makers.fails = {11}
    bench.begin(1, 2)
    allowed, sampled = bench.sample([1, 2], 1)
    assert allowed.masks.tolist() == [[-1, -1], [2, -1]]
    bench.masks.note(sampled)
    assert sampled.tokens.tolist() == [FAILED, 34]
    assert [order["index"] for order in bench.makers.orders[2:]] == [12]
    assert bench.metrics.total("masks_missing") == 1


def test_a_mask_that_does_not_come_in_time_fails_its_sequence():
    bench = Bench(timeout_s=0.01)
    bench.makers.wait = lambda seconds: False
    bench.begin(0)
    _, sampled = bench.sample([0], 1)
    bench.masks.note(sampled)
    assert sampled.tokens.tolist() == [FAILED]


def test_what_was_lost_is_ordered_again_with_tokens_from_the_table(bench):
    bench.begin(0, 1)
    _, sampled = bench.sample([0], 1)
    bench.masks.note(sampled)
    bench.makers.is_lost, bench.makers.orders, bench.makers.answered = True, [], 0
    allowed, _ = bench.sample([0], 2)
    assert [(order["index"], order["position"], order["token"]) for order in bench.makers.orders] == [(10, 1, UNKNOWN)]
    assert allowed.masks.tolist() == [[bench.makers.orders[0]["serial"], -1]]


def test_a_row_that_changed_hands_orders_for_its_new_request_only(bench):
    bench.begin(0)
    _, sampled = bench.sample([0], 1)
    bench.begin(0)
    bench.masks.note(sampled)
    assert [order["position"] for order in bench.makers.orders] == [0, 0]
    allowed, _ = bench.sample([0], 2)
    assert allowed.masks.tolist() == [[2, -1]]


def test_a_token_that_its_mask_does_not_allow_fails_its_sequence(bench):
    bench.begin(0, 1)
    _, sampled = bench.sample([1, 0], 1)
    sampled.tokens[:] = 0
    bench.masks.note(sampled)
    assert sampled.tokens.tolist() == [FAILED, 0]  # of the serial numbers 2 and 1 as masks
