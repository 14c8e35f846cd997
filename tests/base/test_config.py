import pytest

from lightllm.base.config import EngineConfig, ServerConfig, parse
from lightllm.base.errors import ConfigError


def test_text_is_read_as_a_flag_would_be():
    given = {"tp": "2", "mem-fraction": "0.5", "disable_dynamic_prompt_cache": "true", "eos_id": ["1", 2]}
    config = parse(ServerConfig, given)
    assert (config.tp, config.mem_fraction, config.disable_dynamic_prompt_cache, config.eos_id) == (
        2,
        0.5,
        True,
        [1, 2],
    )


def test_defaults_are_allowed_values():
    for kind in (EngineConfig, ServerConfig):
        defaults = {name: value for name, value in parse(kind, {}).__rich_repr__() if value is not None}
        assert parse(kind, defaults) == kind()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tp", "0"),
        ("tp", "1.5"),
        ("port", "70000"),
        ("mem_fraction", "nan"),
        ("mem_fraction", "1"),
        ("watermark", "inf"),
        ("device", "tpu"),
        ("log_stats_interval", "-1"),
        ("max_total_token_num", "many"),
    ],
)
def test_what_is_not_allowed_is_named(name, value):
    with pytest.raises(ConfigError, match=f"--{name}={value}"):
        parse(ServerConfig, {name: value})


@pytest.mark.parametrize(
    ("name", "words"), [("kv_type", "bf16, fp8, int8, int4"), ("quant_type", "none, w8a8, vllm-w8a8, .*")]
)
def test_words_that_are_allowed_are_named(name, words):
    with pytest.raises(ConfigError, match=f"--{name}=fp3: .*; allowed: {words}"):
        parse(EngineConfig, {name: "fp3"})


def test_an_unknown_setting_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"'max_tokens'.*max_total_token_num"):
        parse(EngineConfig, {"max_tokens": 5})
    with pytest.raises(ConfigError, match="'port'"):
        parse(EngineConfig, {"port": 5})
