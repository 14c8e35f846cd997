from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options
from lightllm.serving.text.answer import Answer

NONE, STOP, LENGTH = FinishReason.NONE, FinishReason.STOP, FinishReason.LENGTH


class Letters:
    """Decoder whose token 0 is 'a', 1 is 'b', ...; token 25 waits for the next one, as half a character does."""

    held = ""

    def step(self, token: int) -> str:
        if token == 25:
            self.held = "?"
            return ""
        text, self.held = self.held + chr(ord("a") + token), ""
        return text

    def flush(self) -> str:
        return self.held


def answer(*, min_tokens: int = 0, **options) -> Answer:
    return Answer(Letters(), Options(**options), min_tokens)


def test_tokens_after_the_end_neither_count_nor_show():
    one = answer(stop=["c"], stop_token_ids=[7])
    assert one.take([0, 1, 2, 3, 7], STOP) == "ab"
    assert (one.num_tokens, one.finish, one.stop, one.ended_by_string) == (3, STOP, 0, True)


def test_a_stop_token_counts_and_is_not_shown():
    one = answer(stop=["zz"], stop_token_ids=[9, 7])
    assert one.take([0, 7, 3], NONE) == "a"
    assert (one.num_tokens, one.finish, one.stop, one.ended_by_string) == (2, STOP, 2, False)


def test_a_stop_token_is_shown_where_asked():
    assert answer(stop_token_ids=[7], include_stop=True).take([0, 7], STOP) == "ah"


def test_the_end_by_length_shows_what_was_held():
    one = answer(stop=["bcd"])
    assert one.take([0, 1, 2], NONE) == "a"
    assert one.take([25], LENGTH) == "bc?"
    assert (one.num_tokens, one.finish, one.stop) == (4, LENGTH, -1)


def test_an_end_may_come_after_the_last_token():
    one = answer()
    assert one.take([0, 25], NONE) == "a"
    assert one.take([], LENGTH) == "?"
    assert one.num_tokens == 2


def test_nothing_stops_before_min_tokens():
    one = answer(stop=["b"], stop_token_ids=[7], min_tokens=3)
    assert one.take([1, 7, 1], NONE) == "bhb"
    assert one.take([0, 1], NONE) == "a"
    assert one.num_tokens == 5
    two = answer(stop_token_ids=[7], min_tokens=1)
    assert two.take([7, 7], NONE) == "h"
    assert two.num_tokens == 2


def test_a_stop_string_that_the_last_half_character_completes_counts():
    one = answer(stop=["b?"])
    assert one.take([0, 1, 25], LENGTH) == "a"
    assert (one.finish, one.stop) == (STOP, 0)
