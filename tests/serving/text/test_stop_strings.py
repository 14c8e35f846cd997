import random

import pytest

from lightllm.serving.text.stop_strings import StopStrings


def run(strings, pieces, *, include=False, matching_from=0):
    """Text shown piece by piece, and which string matched."""
    search, shown = StopStrings(strings, include_match=include), []
    for number, piece in enumerate(pieces):
        shown.append(search.feed(piece, may_match=number >= matching_from))
        if search.matched >= 0:
            return shown, search.matched
    return [*shown, search.flush()], -1


def first_complete(strings, text):
    """By definition: the shortest beginning of the text that ends with a stop string; the longest such string."""
    for end in range(len(text) + 1):
        ending = [(-len(string), which) for which, string in enumerate(strings) if text[:end].endswith(string)]
        if ending:
            length, which = min(ending)
            return end + length, end, which
    return len(text), len(text), -1


@pytest.mark.parametrize("include", [False, True])
def test_cut_is_where_the_first_string_is_complete_however_the_text_is_cut(include):
    rng = random.Random(0)
    for _ in range(3000):
        strings = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choices("abc", k=rng.randint(0, 12)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 6)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        start, end, which = first_complete(strings, text)
        shown, matched = run(strings, pieces, include=include)
        assert ("".join(shown), matched) == (text[: end if include else start], which), (strings, pieces)


def test_only_what_may_begin_a_stop_string_is_held_back():
    assert run(["END"], ["some E", "N", "Ergy E", "x"]) == (["some ", "", "ENErgy ", "Ex", ""], -1)


def test_a_match_may_not_end_before_matching_is_allowed():
    assert run(["b"], ["abc", "ab"], matching_from=1) == (["abc", "a"], 0)
    assert run(["bc"], ["ab", "c", "d"], matching_from=2) == (["a", "bc", "d", ""], -1)
    assert run(["bcd"], ["ab", "c", "d"], matching_from=2) == (["a", "", ""], 0)


def test_what_is_held_at_the_end_is_shown():
    assert run(["</s>"], ["x<", "/"]) == (["x", "", "</"], -1)
