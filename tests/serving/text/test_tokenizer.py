import json

import pytest
from tokenizers import processors

from lightllm.base import config
from lightllm.base.errors import ConfigError, RequestError
from lightllm.serving.text.tokenizer import TextTokenizer, load_tokenizer
from tests.serving.text.tokenizers_for_tests import SPECIAL, TEXT, byte_fallback, byte_level

KINDS = {"byte-level": byte_level, "byte fallback": byte_fallback}


@pytest.mark.parametrize("text", TEXT)
def test_bytes_of_tokens_are_the_text(text):
    tokenizer = TextTokenizer(byte_level(), {})
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


@pytest.mark.parametrize("text", ["the ab", "a中b", "héx 😀"])
def test_bytes_of_byte_fallback_tokens_are_the_text(text):
    tokenizer = TextTokenizer(byte_fallback(), {})
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == " " + text


def test_tokens_have_names_that_people_can_read():
    tokenizer = TextTokenizer(byte_level(), {})
    names = [tokenizer.token_text(token) for token in tokenizer.encode("a é!<|end|>", add_special_tokens=False)]
    assert names[0] == "a"
    assert names[-1] == "<|end|>"
    whole, part = byte_fallback().token_to_id("中"), byte_fallback().token_to_id("<0xE4>")
    named = TextTokenizer(byte_fallback(), {})
    assert (named.token_text(whole), named.token_text(part)) == ("中", r"bytes:\xe4")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_ids_outside_the_vocabulary_are_nothing(make):
    assert TextTokenizer(make(), {}).token_bytes(10**6) == b""


def test_special_tokens_are_those_of_the_configuration():
    named = {"bos_token": SPECIAL[0], "eos_token": {"content": SPECIAL[1], "lstrip": False}, "pad_token": None}
    tokenizer = TextTokenizer(byte_level(), named)
    assert tokenizer.special_tokens == {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
    assert tokenizer.is_special(0)
    assert not tokenizer.is_special(50)


@pytest.mark.parametrize("asked", [True, False, None])
@pytest.mark.parametrize("adds", [True, False], ids=["tokenizer.json adds bos", "it does not"])
def test_bos_comes_once_where_the_checkpoint_wants_it(asked, adds):
    raw = byte_level().from_str(byte_level().to_str())
    if adds:
        raw.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)])
    tokenizer = TextTokenizer(raw, {"bos_token": SPECIAL[0], "add_bos_token": asked})
    assert tokenizer.encode("a", add_special_tokens=True).count(0) == int(adds or asked is True)
    assert tokenizer.encode("a", add_special_tokens=False).count(0) == 0


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(RequestError, match="surrogate"):
        TextTokenizer(byte_level(), {}).encode("a\ud800", add_special_tokens=False)


def engine_config(folder, **flags):
    return config.parse(config.EngineConfig, {"model_dir": str(folder)} | flags)


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path):
    raw = byte_level().from_str(byte_level().to_str())
    raw.enable_truncation(4)
    raw.enable_padding(length=8)
    raw.save(str(tmp_path / "tokenizer.json"))
    loaded = TextTokenizer.load(engine_config(tmp_path))
    assert len(loaded.encode("one two three four five", add_special_tokens=True)) > 8
    assert len(loaded.encode("a", add_special_tokens=True)) == 1


def test_special_tokens_map_fills_in_for_the_configuration(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>", "bos_token": "old"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|start|>"}))
    loaded = TextTokenizer.load(engine_config(tmp_path))
    assert loaded.special_tokens == {"eos_token": "<|end|>", "bos_token": "<|start|>"}


def test_no_tokenizer_is_loaded_where_none_is_wanted(tmp_path):
    assert load_tokenizer(engine_config(tmp_path, tokenizer_mode="none")) is None
    assert TextTokenizer.load(engine_config(tmp_path, tokenizer_mode="none")) is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer.json.*--tokenizer_mode=none"),
        ({"tokenizer.model": ""}, r"tokenizer.model but no tokenizer.json.*[^e]\)\.save_pretrained"),
        (
            {"tokenizer.model": "", "tokenizer_config.json": '{"auto_map": {"A": "b"}}'},
            r"trust_remote_code=True\)\.save",
        ),
        ({"tokenizer.json": "{}"}, "is not a tokenizer"),
    ],
    ids=["none", "sentencepiece only", "with code", "broken"],
)
def test_a_missing_tokenizer_is_one_clear_line(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_tokenizer(engine_config(tmp_path))
    assert "\n" not in str(caught.value)


def test_special_tokens_in_texts_are_found():
    tokenizer = TextTokenizer(byte_level(), {})
    assert tokenizer.special_tokens_in(["a<|end|>b", "<tool call>"]) == [byte_level().token_to_id("<|end|>")]
    assert tokenizer.special_tokens_in([]) == []
