import pytest

from lightllm.base.errors import RequestError
from lightllm.base.request import SamplingParams
from lightllm.serving.text.healing import healed
from lightllm.serving.text.tokenizer import TextTokenizer
from tests.serving.text.tokenizers_for_tests import byte_level

HEALING = SamplingParams(token_healing=True, stop=["xyz"])


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), {})


def test_the_first_token_begins_with_what_was_taken_back(tokenizer):
    prompt = tokenizer.encode("The quick brown fox", add_special_tokens=False)
    shorter, params = healed(tokenizer, prompt, HEALING)
    text = tokenizer.token_bytes(prompt[-1])
    everything = range(tokenizer._tokenizer.get_vocab_size())
    assert shorter == prompt[:-1]
    assert params.hidden_beginning.encode() == text
    expected = [t for t in everything if tokenizer.token_bytes(t).startswith(text) and not tokenizer.is_special(t)]
    assert sorted(params.first_token_ids) == expected
    assert prompt[-1] in expected
    assert len(expected) < len(everything)


def test_a_prompt_that_has_nothing_to_heal_is_left_as_it_is(tokenizer):
    special = tokenizer._tokenizer.token_to_id("<|end|>")
    part_of_a_character = tokenizer.encode("a \u2603", add_special_tokens=False)
    assert tokenizer.token_text(part_of_a_character[-1]).startswith("bytes:")
    stops = SamplingParams(token_healing=True, stop=["o"])
    for prompt, params in (
        ([5], HEALING),
        ([5, 6, special], HEALING),
        ([5, special, 6], HEALING),
        (part_of_a_character, HEALING),
        (tokenizer.encode("to, to", add_special_tokens=False), stops),
    ):
        assert healed(tokenizer, prompt, params) == (prompt, params)


@pytest.mark.parametrize("name", ["first_token_ids", "allowed_token_ids", "prompt_logprobs"])
def test_what_contradicts_healing_is_refused(tokenizer, name):
    value = 1 if name == "prompt_logprobs" else [5]
    with pytest.raises(RequestError, match=name):
        healed(tokenizer, [5, 6], SamplingParams(token_healing=True, **{name: value}))
