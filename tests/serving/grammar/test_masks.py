"""Orders for masks are answered, whatever of the answers is known."""

import numpy as np
import pytest

from lightllm.base.grammar import Regex, encode
from lightllm.base.masks import ORDER, UNKNOWN, MaskMemory, words_of
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options
from lightllm.serving.grammar.library import Refusal
from lightllm.serving.grammar.masks import MaskMaker
from tests.serving.grammar.engines import END, VOCAB, allowed, engine, tokenizer
from tests.serving.text.table_for_tests import Writers

GRAMMAR = encode(Regex("a+b?c"))
A, B, C = (tokenizer().token_to_id(letter) for letter in "abc")


class Library:
    """Compiles at once, or when it is told to."""

    def __init__(self):
        self.engine, self.waiting, self.is_slow, self.num_compiled = engine(), [], False, 0

    def want(self, source, then):
        self.num_compiled += 1
        if source == b"wrong":
            then(Refusal("it is wrong"))
        elif self.is_slow:
            self.waiting.append(then)
        else:
            then(engine().compile(Regex("a+b?c")))


class Bench:
    def __init__(self, *, records=8):
        self.writers, self.library = Writers(records), Library()
        self.memory = MaskMemory(MaskMemory.create(lines=4, vocab=VOCAB), lines=4, vocab=VOCAB)
        self.restart()

    def restart(self):
        self.maker = MaskMaker(self.writers.table, self.memory, self.library)  # type: ignore[arg-type]

    def submit(self, index, source=GRAMMAR):
        reference = self.writers.submit(index, Options())
        record = self.writers.table.records[index]
        record["grammar_page"] = self.writers._client_pages[0].store_bytes(source)
        record["grammar_bytes"] = len(source)
        return reference

    def order(self, line, reference, position, token, serial):
        """Orders one mask; returns the letters that it allows, None if there is no answer yet."""
        self.maker.order(np.array([(line, *reference, position, token, serial)], ORDER))
        return self.answer(line, serial)

    def answer(self, line, serial):
        self.maker.make()
        if self.memory.answers[line] == -serial:
            return "none"
        if self.memory.answers[line] != serial:
            return None
        tokens = allowed(self.memory.masks[line])
        return "".join(letter for letter, token in zip("abc.", (A, B, C, END), strict=True) if token in tokens)


@pytest.fixture
def bench():
    return Bench()


def test_masks_follow_the_tokens(bench):
    reference = bench.submit(3)
    told = [bench.order(2, reference, 0, UNKNOWN, 1)]
    told += [bench.order(2, reference, 1 + i, token, 2 + i) for i, token in enumerate((A, A, B, C, END))]
    assert told == ["a", "abc", "abc", "c", ".", "."]
    assert bench.library.num_compiled == 1
    assert not bench.maker.is_waiting


def test_several_orders_are_answered_together(bench):
    references = [bench.submit(index) for index in range(3)]
    bench.maker.order(np.array([(i, *reference, 0, UNKNOWN, 5 + i) for i, reference in enumerate(references)], ORDER))
    assert bench.maker.make() == 3
    assert bench.memory.answers.tolist() == [5, 6, 7, 0]
    assert len(bench.memory.masks[0]) == words_of(VOCAB)


def test_after_a_restart_or_preemption_an_answer_is_followed_from_its_first_token(bench):
    reference = bench.submit(1)
    bench.writers.emit(1, [A, A, B])
    assert bench.order(0, reference, 3, UNKNOWN, 1) == "c"
    bench.restart()
    assert bench.order(0, reference, 4, C, 2) == "."


def test_tokens_that_the_table_lacks_are_waited_for(bench):
    reference = bench.submit(1)
    bench.writers.emit(1, [A])
    assert bench.order(0, reference, 2, UNKNOWN, 1) is None
    assert bench.maker.is_waiting
    bench.writers.emit(1, [B])
    assert bench.answer(0, 1) == "c"


def test_a_later_order_takes_the_place_of_one_that_waits(bench):
    bench.library.is_slow = True
    first, second = bench.submit(0), bench.submit(1)
    assert bench.order(0, first, 0, UNKNOWN, 1) is None
    assert bench.order(0, second, 0, UNKNOWN, 2) is None
    for then in bench.library.waiting:
        then(engine().compile(Regex("b")))
    assert bench.answer(0, 2) == "b"
    assert bench.maker.make() == 0


def test_an_answer_that_left_its_grammar_has_no_mask_and_others_have(bench):
    first, second = bench.submit(0), bench.submit(1)
    bench.order(0, first, 0, UNKNOWN, 1)
    bench.maker.order(np.array([(0, *first, 1, B, 2), (1, *second, 0, UNKNOWN, 3)], ORDER))
    bench.maker.make()
    assert bench.memory.answers[:2].tolist() == [-2, 3]


@pytest.mark.parametrize("late_first", [False, True])
def test_a_late_order_for_a_record_that_is_used_again_hurts_nobody(bench, late_first):
    old = bench.submit(0)
    assert bench.order(0, old, 0, UNKNOWN, 1) == "a"
    new = bench.submit(0)
    orders = [(0, *old, 1, A, 2), (1, *new, 0, UNKNOWN, 3)]
    bench.maker.order(np.array(orders if late_first else orders[::-1], ORDER))
    bench.maker.make()
    assert bench.answer(1, 3) == "a"
    assert abs(int(bench.memory.answers[0])) == 2
    assert bench.order(1, new, 1, A, 4) == "abc"


def test_a_grammar_that_is_refused_has_no_mask(bench):
    assert bench.order(0, bench.submit(0, b"wrong"), 0, UNKNOWN, 1) == "none"


def test_a_record_that_was_taken_back_has_no_mask(bench):
    index, generation = bench.submit(0)
    bench.submit(0)
    assert bench.order(0, (index, generation), 0, UNKNOWN, 1) == "none"


def test_an_answer_that_ended_meanwhile_is_not_waited_for(bench):
    reference = bench.submit(1)
    bench.writers.emit(1, [A], FinishReason.STOP)
    assert bench.order(0, reference, 2, UNKNOWN, 1) == "none"


def test_answers_that_have_ended_are_forgotten():
    bench = Bench(records=200)
    for index in range(200):
        assert bench.order(index % 4, bench.submit(index), 0, UNKNOWN, index + 1) == "a"
        if index != 3:
            bench.writers.emit(index, [A, C], FinishReason.STOP)
    assert len(bench.maker._followed) <= 65
    assert bench.order(0, (3, 1), 1, A, 201) == "abc"
    assert bench.library.num_compiled == 200
