import random

import pytest
from tokenizers import Tokenizer

from lightllm.base.errors import ConfigError
from lightllm.bench.options import DatasetOptions
from lightllm.bench.prompts import TextPrompts, load
from lightllm.demo import MODEL_DIR
from tests.serving import checkpoint_for_tests


@pytest.fixture(scope="module")
def words() -> TextPrompts:
    return TextPrompts.load(MODEL_DIR)


@pytest.mark.parametrize("tokens", [1, 2, 17, 1000])
def test_a_text_has_exactly_the_tokens_asked_for(words, tokens):
    text = words.make(random.Random(tokens), tokens)
    assert len(Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")).encode(text).ids) == tokens
    assert words.counts([text]) == [tokens]


def test_texts_put_one_after_another_have_the_sum_of_their_tokens(words):
    draw = random.Random(0)
    parts = [words.make(draw, 30, begins=number == 0) for number in range(5)]
    assert words.counts(["".join(parts)]) == [150]


def test_a_bos_token_counts_as_the_server_counts_it(tmp_path):
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bos = next(token.content for token in tokenizer.get_added_tokens_decoder().values())
    (tmp_path / "tokenizer_config.json").write_text(f'{{"bos_token": "{bos}", "add_bos_token": true}}')
    with_bos = TextPrompts.load(tmp_path)
    text = with_bos.make(random.Random(0), 20)
    assert len(tokenizer.encode(text).ids) == 19
    assert with_bos.counts([text]) == [20]


def test_token_ids_are_none_of_the_special_ones():
    ids = load(DatasetOptions(prompt_form="ids"), MODEL_DIR).make(random.Random(0), 5000)
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    assert len(ids) == 5000
    assert not set(ids) & {token for token, about in tokenizer.get_added_tokens_decoder().items() if about.special}


def test_a_vocabulary_without_words_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--prompt_form=ids"):
        TextPrompts.load(checkpoint_for_tests.write(tmp_path))
