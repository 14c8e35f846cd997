import random

import pytest

from lightllm.serving.text.incremental import Decoders
from tests.serving.text.tokenizers_for_tests import TEXT, byte_fallback, byte_level

TOKENIZERS = {"byte-level": byte_level, "byte-fallback": byte_fallback}


def streamed(tokenizer, ids, *, skip, prompt=()):
    decoder = Decoders(tokenizer).new(skip_special_tokens=skip, prompt_end=prompt)
    return [*(decoder.step(token) for token in ids), decoder.flush()]


def random_ids(tokenizer, rng: random.Random, length: int) -> list[int]:
    """Uniform ids, and runs from the first 300 of them, where the bytes are."""
    size = tokenizer.get_vocab_size()
    return [rng.randrange(300 if rng.random() < 0.5 else size) for _ in range(length)]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_pieces_make_what_one_decode_gives(make, skip):
    tokenizer, rng = make(), random.Random(0)
    for case in range(400):
        ids = random_ids(tokenizer, rng, 1 + case % 40)
        assert "".join(streamed(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip), ids


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("text", TEXT)
def test_real_text_comes_in_whole_characters(make, text):
    pieces = streamed(make(), make().encode(text).ids, skip=True)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_text_is_not_held_longer_than_a_character_takes():
    tokenizer = byte_level()
    ids = tokenizer.encode("a 中 b").ids
    pieces = streamed(tokenizer, ids, skip=True)
    assert pieces[-1] == ""
    for i in range(len(ids)):
        so_far = tokenizer.decode(ids[: i + 1])
        assert "".join(pieces[: i + 1]) == so_far.rstrip("\ufffd")


@pytest.mark.parametrize("skip", [True, False])
def test_space_after_the_prompt_is_kept(skip):
    tokenizer, rng = byte_fallback(), random.Random(1)
    word = tokenizer.token_to_id("▁the")
    for case in range(200):
        prompt, ids = [word, *random_ids(tokenizer, rng, case % 9), word], [word, *random_ids(tokenizer, rng, 5)]
        whole = tokenizer.decode(prompt + ids, skip_special_tokens=skip)
        expected = whole.removeprefix(tokenizer.decode(prompt, skip_special_tokens=skip))
        assert expected.startswith(" the")
        assert "".join(streamed(tokenizer, ids, skip=skip, prompt=prompt)) == expected


def test_an_end_in_half_a_character_is_shown():
    tokenizer = byte_level()
    half = tokenizer.encode("\U0001f701").ids[:2]
    assert streamed(tokenizer, half, skip=True) == ["", "", "\ufffd"]


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_ids_beyond_the_vocabulary_have_no_text(make):
    assert "".join(streamed(make(), [10**6, make().token_to_id("a"), 10**6], skip=True)) == "a"


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_some_special_tokens_can_be_shown_while_others_are_skipped(make):
    tokenizer = make()
    shown, skipped = (tokenizer.token_to_id(name) for name in ("<|start|>", "<|end|>"))
    ids = [skipped, *tokenizer.encode("ab").ids, shown, *tokenizer.encode("ab").ids, skipped]
    decoder = Decoders(tokenizer).new(skip_special_tokens=True, shown=[shown])
    text = "".join([*(decoder.step(token) for token in ids), decoder.flush()])
    assert text.replace(" ", "") == "ab<|start|>ab"
